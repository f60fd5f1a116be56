"""TensorFlow, and the libraries that were built: where they are looked for."""

import os
import shutil
import sys
from pathlib import Path

import pytest
import tensorflow as tf

from tests.building.small_tree import write, write_program


@pytest.mark.late
def test_installed_tensorflow(tree):
    config = tree.module.tensorflow_config()
    assert config.version == tf.__version__
    assert Path(config.include_dir).samefile(tf.sysconfig.get_include())
    assert list(config.compile_flags) == tf.sysconfig.get_compile_flags()
    assert list(config.link_flags) == tf.sysconfig.get_link_flags()
    assert bool(config.cuda_archs) == tf.sysconfig.get_build_info()["is_cuda_build"]
    path = tree.root / "tf.cmake"
    config.write(path)
    assert "/external/highwayhash" in path.read_text() and "libtensorflow_cc" in path.read_text()


def test_tensorflow_that_cannot_be_used(tree):
    module = tree.module
    python = write_program(tree.root / "python", f'exec "{sys.executable}" -S "$@"')
    with pytest.raises(module.TensorFlowNotFoundError, match="TensorFlow is not installed"):
        module.tensorflow_config(python, env={"PATH": os.environ["PATH"]})
    with pytest.raises(module.BuildError, match="Cannot run the Python interpreter"):
        module.tensorflow_config(tree.root / "no-python")
    write(tree.root / "bad", {"tensorflow/__init__.py": "raise ImportError('libx.so is gone')"})
    environment = dict(os.environ, PYTHONPATH=str(tree.root / "bad"))
    with pytest.raises(module.TensorFlowNotFoundError, match="libx.so is gone"):
        module.tensorflow_config(env=environment)
    archs = {"cuda_compute_capabilities": ["sm_80", "sm_90", "compute_90"]}
    with open(tree.root / "site" / "tensorflow" / "sysconfig.py", "a") as file:
        file.write(f"get_build_info = lambda: {archs}\n")
    environment["PYTHONPATH"] = str(tree.root / "site")
    assert module.tensorflow_config(env=environment).cuda_archs == ("80", "90")


# Where libraries are looked for.


def put_library(module, folder: Path, **info) -> Path:
    write(folder, {"libtfconv_ops.so": "a library"})
    base = {"tfconv_version": module.package_version(), "sources_hash": module.sources_hash()}
    module._write_json(folder / "build_info.json", {**base, **info})
    return folder / "libtfconv_ops.so"


def test_library_search_order(tree):
    module = tree.module
    shutil.copytree(tree.sources, tree.package / "_cc")
    package, cache = module.library_dirs("2.21.3")
    assert package == tree.package / "_native" / "tf-2.21"
    assert cache == tree.root / "cache" / "tfconv" / module.package_version() / "tf-2.21"
    assert module.find_library("2.21.3") is None and module.built_versions() == []
    assert module.find_delegate("2.21.3") is None

    in_cache = put_library(module, cache, tf_version="2.21.1")
    assert module.find_library("2.21.3")[0] == in_cache
    in_package = put_library(module, package, tf_version="2.21.1")
    assert module.find_library("2.21.3")[0] == in_package
    put_library(module, cache, tf_version="2.21.3")  # the exact version
    assert module.find_library("2.21.3")[0] == in_cache
    put_library(module, cache, tf_version="2.21.3", sources_hash="of older sources")
    assert module.find_library("2.21.3")[0] == in_package
    (package / "build_info.json").write_text("{ not JSON")
    assert module.find_library("2.21.3")[0] == in_cache

    delegates = [folder.parent / "libtfconv_lite.so" for folder in (package, cache)]
    delegates[0].touch()
    assert module.find_delegate("2.21.3") == module.find_delegate("3.0") == delegates[0]
    delegates[1].touch()  # beside the library that serves
    assert module.find_delegate("2.21.3") == delegates[1]

    put_library(module, module.library_dirs("2.9.0")[0], tf_version="2.9.0")
    assert module.built_versions() == ["2.9", "2.21"]
    assert module.find_library("2.15.1") is None


def test_where_the_loader_finds_tensorflow(tree):
    """An installed library finds it beside itself, wherever it was for the build."""
    module = tree.module
    config = module.TensorFlowConfig("2.21.0", (), ("-L/one/tensorflow", "-ltf"), "/one/inc")
    native, cache = module.library_dirs("2.21.0")
    assert module._rpath(native, config) == "$ORIGIN/../../../tensorflow"
    assert module._rpath(cache, config) == "/one/tensorflow"
    write(tree.package.parent, {"setup.py": "", "cc/a.cc": ""})  # a checkout
    assert module._rpath(native, config) == "/one/tensorflow"
    assert module.default_build_dir() == tree.package.parent / "build" / "native"


def test_sources_and_staleness(tree):
    module = tree.module
    assert not module.is_stale({"tfconv_version": module.package_version()})  # no sources
    write(tree.package.parent, {"cc/other.cc": "somebody else's folder of that name"})
    with pytest.raises(module.BuildError, match="C\\+\\+ sources of tfconv are missing"):
        module.find_sources()
    shutil.copytree(tree.sources, tree.package / "_cc")
    assert module.find_sources() == tree.package / "_cc"
    good = {"tfconv_version": module.package_version(), "sources_hash": module.sources_hash()}
    assert not module.is_stale(good) and module.is_stale({**good, "tfconv_version": "0.0.1"})
    assert module.sources_hash(tree.sources) == module.sources_hash()  # in `cc` as in `_cc`
    write(tree.package / "_cc", {"a/a_test.cc": "a test changes nothing"})
    assert not module.is_stale(good)
    for name in ("a/a.h", "flags.cmake"):
        text = (tree.package / "_cc" / name).read_text()
        write(tree.package / "_cc", {name: text + " "})
        assert module.is_stale(good)
        write(tree.package / "_cc", {name: text})
    old = {**good, "sources_hash": "of older sources"}
    assert module.has_other_ops(old) and not module.has_other_ops(good)
    old["interface_hash"] = module.interface_hash()
    write(tree.package / "_cc", {"a/a.h": "other kernels"})
    assert not module.has_other_ops(old)
    write(tree.package / "_cc", {"a/another_op.cc": "another op"})
    assert module.has_other_ops(old)


def test_output_goes_to_the_cache_if_the_package_is_read_only(tree, monkeypatch):
    module = tree.module
    package, cache = module.library_dirs("2.21.0")
    assert module.default_output_dir("2.21.0") == package
    access = os.access
    monkeypatch.setattr(
        os,
        "access",
        lambda path, mode: tree.package not in (path, *Path(path).parents) and access(path, mode),
    )
    assert module.default_output_dir("2.21.0") == cache
    # A package outside a checkout keeps its objects in the cache as well.
    assert module.default_build_dir() == cache.parent / "objects"


def test_folder_name_of_a_tensorflow_version(tree):
    for version, key in [("2.21.0", "2.21"), ("2.15", "2.15"), ("2.22.0rc1", "2.22")]:
        assert tree.module.tf_key(version) == f"tf-{key}"
    with pytest.raises(ValueError, match="Received: 'nightly'"):
        tree.module.tf_key("nightly")
