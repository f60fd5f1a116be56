"""Mutation testing: how much of what the code does would be missed if it were wrong?

    python -m tests.mutants                  # 100 mutants, the tests that `make test` runs
    python -m tests.mutants --tests all      # those of `make test-all`
    python -m tests.mutants --only 3f2a91c0  # one mutant once more, or a file's

A mutant is the source with one small change. A test fails on it, or it survives: then a test is
missing, or the change changes nothing (`equivalents.yaml` lists those, with the reason).

mutmut and cosmic-ray do not fit. mutmut runs tests before it forks, and TensorFlow's threads do
not outlive that; it also puts functions of its own around those of Keras's layers, whose signatures
are read. cosmic-ray starts a process for each mutant (TensorFlow: 5 s), runs one command for all,
and changes the working tree.
"""
