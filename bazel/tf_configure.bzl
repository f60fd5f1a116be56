"""A repository that holds the headers, library and flags of an installed TensorFlow."""

_SCRIPT = """
import sys
import tensorflow as tf
words = [tf.sysconfig.get_include(), tf.sysconfig.get_lib()]
words += [f for f in tf.sysconfig.get_compile_flags() if not f.startswith("-I")]
sys.stdout.write("@@" + "\\n".join(words) + "@@")
"""

_BUILD = """
package(default_visibility = ["//visibility:public"])

cc_library(
    name = "headers",
    hdrs = glob(["include/**/*.h", "include/Eigen/**", "include/unsupported/**"]),
    includes = ["include"],
)

cc_library(
    name = "framework",
    srcs = ["libtensorflow_framework.so.2"],
)
"""

def _tf_configure_impl(repository):
    python = repository.os.environ.get("TF_PYTHON", "python3")
    if "/" in python and not python.startswith("/"):
        # Relative to the workspace.
        python = str(repository.path(Label("//:WORKSPACE")).dirname) + "/" + python
    result = repository.execute([python, "-c", _SCRIPT], timeout = 300)
    if result.return_code:
        fail("No TensorFlow for " + python + " (set TF_PYTHON):\n" + result.stderr)
    words = result.stdout.split("@@")[1].split("\n")
    repository.symlink(words[0], "include")
    name = "libtensorflow_framework.so.2"
    repository.symlink(words[1] + "/" + name, name)
    repository.file("BUILD", _BUILD)
    repository.file("flags.bzl", "TF_COPTS = " + repr(words[2:]) + "\n")

tf_configure = repository_rule(
    implementation = _tf_configure_impl,
    doc = "Links the TensorFlow of the interpreter that TF_PYTHON names.",
    environ = ["TF_PYTHON"],
    local = True,
)
