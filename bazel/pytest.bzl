"""Tests of Python with the library that Bazel builds."""

def pytest_test(path, data = [], env = {}, every = 4):
    """Runs a file of //tests with pytest: a part of its cases, none with portable twins."""
    native.py_test(
        name = path[:-len(".py")],
        srcs = ["//bazel:pytest_main.py"],
        main = "//bazel:pytest_main.py",
        args = [native.package_name() + "/" + path, "-k", "'not portable'", "--every=%d" % every],
        data = ["//cc:libtfconv_ops.so"] + data,
        env = dict(env, TFCONV_LIBRARY = "$(rootpath //cc:libtfconv_ops.so)"),
        # The workspace has the package's name: an __init__.py would make it the package.
        legacy_create_init = False,
        deps = [":tests"],
    )
