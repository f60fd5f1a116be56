"""Repositories that say what TensorFlow the ops are compiled against."""

_SCRIPT = """
import sys
import tensorflow as tf
words = [tf.sysconfig.get_include(), tf.sysconfig.get_lib()]
words += [f for f in tf.sysconfig.get_compile_flags() if not f.startswith("-I")]
sys.stdout.write("@@" + "\\n".join(words) + "@@")
"""

# TensorFlow's own headers include these, but its compile flags do not name them.
_EXTERNAL_INCLUDES = ["external/highwayhash", "external/farmhash_archive/src"]

_INSTALLED = """
load("@bazel_tools//tools/python:toolchain.bzl", "py_runtime_pair")

package(default_visibility = ["//visibility:public"])

cc_library(
    name = "headers",
    hdrs = glob(["include/**/*.h", "include/Eigen/**", "include/unsupported/**"]),
    includes = %s,
)

cc_library(
    name = "framework",
    srcs = ["libtensorflow_framework.so.2"],
)

# XLA's bridge is in it.
cc_library(
    name = "xla",
    srcs = glob(["libtensorflow_cc.so.2"]),
)

py_runtime(
    name = "python",
    interpreter_path = "%s",
    python_version = "PY3",
)

py_runtime_pair(
    name = "pythons",
    py3_runtime = ":python",
)

toolchain(
    name = "python_toolchain",
    toolchain = ":pythons",
    toolchain_type = "@bazel_tools//tools/python:toolchain_type",
)
"""

def _tf_configure_impl(repository):
    python = repository.os.environ.get("TF_PYTHON", "python3")
    if "/" not in python:
        python = str(repository.which(python))
    elif not python.startswith("/"):
        # Relative to the workspace.
        python = str(repository.path(Label("//:WORKSPACE")).dirname) + "/" + python
    result = repository.execute([python, "-c", _SCRIPT], timeout = 300)
    if result.return_code:
        fail("No TensorFlow for " + python + " (set TF_PYTHON):\n" + result.stderr)
    words = result.stdout.split("@@")[1].split("\n")
    repository.symlink(words[0], "include")
    for name in ["libtensorflow_framework.so.2", "libtensorflow_cc.so.2"]:
        if repository.path(words[1] + "/" + name).exists:
            repository.symlink(words[1] + "/" + name, name)
    includes = ["include"]
    for folder in _EXTERNAL_INCLUDES:
        if repository.path("include/" + folder).exists:
            includes.append("include/" + folder)
    repository.file("BUILD", _INSTALLED % (repr(includes), python))
    repository.file("flags.bzl", "TF_COPTS = " + repr(words[2:]) + "\n")

tf_configure = repository_rule(
    implementation = _tf_configure_impl,
    doc = "Links the TensorFlow of the interpreter that TF_PYTHON names, and the interpreter.",
    environ = ["TF_PYTHON"],
    local = True,
)

_FROM_SOURCE = """
cc_library(
    name = "headers",
    visibility = ["//visibility:public"],
    deps = %s,
)
"""

def _tf_from_source_impl(repository):
    repository.file("BUILD", _FROM_SOURCE % repr(repository.attr.libraries))
    repository.file("flags.bzl", "TF_COPTS = []\n")

tf_from_source = repository_rule(
    implementation = _tf_from_source_impl,
    doc = "The TensorFlow that a server is built with, in place of an installed one.",
    attrs = {
        "libraries": attr.string_list(
            default = [
                "@org_tensorflow//tensorflow/core:framework",
                "@org_tensorflow//tensorflow/core:lib",
            ],
        ),
    },
)
