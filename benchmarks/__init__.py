"""Times of tfconv's native ops beside those of their peers: `python -m benchmarks --help`.

cases.py says what is computed, and on which numbers; the modules named *_rivals.py are who computes
it; rows.py lists what is held against what, with the targets; worker.py and measuring.py take the
times; floors.py, report.py and picture.py make the results.
"""
