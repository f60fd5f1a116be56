"""The layers of today against the golden records of tests/data/golden.

Where one of these tests fails, models that somebody has saved no longer load or give other results.
`tests/golden.py` says what a record holds.
"""

import json
import math
import re
import shutil
import zipfile

import pytest
import tensorflow as tf

import tfconv
from tests import golden
from tfconv._compat import KERAS_3, keras
from tfconv.testing import assert_same

# Of what is recorded, not of what there is now: a layer that has gone is to be noticed.
LAYERS = sorted(path.stem for path in golden.FOLDER.glob("*.npz"))
over_layers = pytest.mark.parametrize("layer", LAYERS)
# Arguments that have other names now. Files, and whoever wrote the old names, are understood.
RENAMED = {"num_kernels": "num_experts", "ratio": "reduction_ratio"}
HOW_TO_RECORD = (
    "record them with `.venv/bin/python -m tests.golden` and then, for the files of Keras 2, with "
    "`.venv-addons/bin/python -m tests.golden`"
)


def differences(recorded, now, where=""):
    """What was recorded and is no longer so; what has been added does not count."""
    if isinstance(recorded, dict) and isinstance(now, dict):
        found = []
        for key, value in recorded.items():
            if key in ("module", "registered_name"):  # differ between the versions of Keras
                continue
            if key not in now and RENAMED.get(key) not in now:
                found.append(f"{where}{key} is gone")
                continue
            names = (value, now[key if key in now else RENAMED[key]])
            if key == "class_name":
                names = tuple(name.rpartition(">")[2] for name in names)
            found += differences(*names, f"{where}{key}.")
        return found
    if isinstance(recorded, list) and isinstance(now, list) and len(recorded) == len(now):
        parts = (differences(*pair, f"{where}{i}.") for i, pair in enumerate(zip(recorded, now)))
        return [text for part in parts for text in part]
    if isinstance(recorded, float) and isinstance(now, (int, float)):
        same = math.isclose(recorded, now, rel_tol=1e-6)  # Keras 2 rounds some to float32
    else:
        same = recorded == now and type(recorded) is type(now)
    return [] if same else [f"{where[:-1]} was {recorded!r} and is {now!r}"]


def config_of(layer):
    """A layer's configuration as it is in a record and as it comes back from JSON."""
    return json.loads(json.dumps(golden.plain(layer.get_config())))


def test_every_layer_has_a_record():
    paths = [
        path
        for name in tfconv.layers.__all__
        for path in (
            golden.record_path(name),
            *(golden.archive_path(name, writer) for writer in golden.SUFFIXES),
        )
    ]
    lacking = [str(path.relative_to(golden.FOLDER)) for path in paths if not path.exists()]
    assert not lacking, f"there are no {', '.join(lacking)}: {HOW_TO_RECORD}"


@over_layers
def test_arguments(layer):
    """Neither the arguments' names nor their defaults have changed."""
    record = golden.load(layer)
    made = record.layer_class(**record.arguments, name="golden")
    assert not differences(record.defaults, config_of(made))
    for case in record.cases:
        made = record.layer_class(**case.arguments, name="golden")
        assert not differences(case.config, config_of(made))


@over_layers
def test_weights(layer):
    """The same names, shapes and roles in the same order."""
    record = golden.load(layer)
    for case in record.cases:
        made = record.layer_class.from_config(case.config)
        assert not differences(case.config, config_of(made))
        case.run(made)
        expected = [(w.name, w.value.shape, w.trainable) for w in case.ordered_weights()]
        now = zip(golden.weight_names(made), made.weights)
        assert [(name, tuple(w.shape), bool(w.trainable)) for name, w in now] == expected


@over_layers
def test_results(layer):
    """With the recorded weights, the recorded results: native in float32, portable in float64."""
    record = golden.load(layer)
    for case in record.cases:
        weights = [w.value for w in case.ordered_weights()]
        made = record.layer_class.from_config(case.config)
        case.run(made)
        made.set_weights(weights)
        assert_same(case.run(made), case.output, 1e-5)
        exact = record.layer_class.from_config({**case.config, "dtype": "float64"})
        with tfconv.portable():
            case.run(exact)
            exact.set_weights(weights)
            assert_same(case.run(exact), case.output, 2e-7)


def files():
    """The files that this Keras can load, as parameters of a test."""
    for layer in LAYERS:
        for suffix in golden.SUFFIXES[golden.WRITER]:
            yield pytest.param(layer, golden.WRITER, suffix, id=f"{layer}{suffix}")
        # Keras 3 reads HDF5 files of Keras 2, but not calls with tensors beside the inputs.
        if KERAS_3 and all(c.as_list or len(c.inputs) == 1 for c in golden.load(layer).cases):
            yield pytest.param(layer, "keras-2", ".h5", id=f"{layer}-keras-2.h5")


@pytest.mark.parametrize("layer, writer, suffix", list(files()))
def test_files(layer, writer, suffix, tmp_path):
    """Files that were written when the layer was recorded still give its results."""
    record = golden.load(layer)
    with zipfile.ZipFile(golden.archive_path(layer, writer)) as archive:
        path = archive.extract(f"model{suffix}", tmp_path)
    if suffix == ".weights.h5":
        model = record.model()
        model.load_weights(path)
    else:
        model = keras.models.load_model(path)
    outputs = record.run(model)
    assert len(outputs) == len(record.cases)
    for output, case in zip(outputs, record.cases):
        assert_same(output, case.output, 1e-5)


def released_files():
    """The files that releases wrote and this Keras can load."""
    for path in sorted((golden.FOLDER / "releases").glob(f"*-{golden.WRITER}.zip")):
        with zipfile.ZipFile(path) as archive:
            for name in sorted(archive.namelist()):
                yield path, name


def load_released(path, name, folder):
    """Loads a file out of a release's archive and holds it against the layer's record."""
    record = golden.load(name.partition(".")[0])
    with zipfile.ZipFile(path) as archive:
        model = keras.models.load_model(archive.extract(name, folder))
    for output, case in zip(record.run(model), record.cases):
        assert_same(output, case.output, 1e-5)


def test_files_of_releases(tmp_path):
    for path, name in released_files():
        load_released(path, name, tmp_path)


def test_every_release_has_files():
    """Of 0.1.0 they are those beside the records."""
    text = (golden.FOLDER.parents[2] / "CHANGELOG.md").read_text(encoding="utf-8")
    versions = re.findall(r"^## (\d\S*) \(", text, re.M)
    assert versions[-1] == "0.1.0"
    lacking = [
        golden.release_path(version, writer).name
        for version in versions[:-1]
        for writer in golden.SUFFIXES
        if not golden.release_path(version, writer).exists()
    ]
    assert not lacking, "write them with `python -m tests.golden --release` in both environments"


def test_release(scratch_folder, tmp_path, monkeypatch):
    if not KERAS_3 and not tf.__version__.startswith("2.15"):
        pytest.skip("tf_keras writes no files")
    monkeypatch.setattr(tfconv, "__version__", "0.9.0")
    assert golden.main(["--release"]) == 0
    ((path, name),) = released_files()
    assert path == tmp_path / f"releases/0.9.0-{golden.WRITER}.zip" and name == "WeightedSum.keras"
    load_released(path, name, tmp_path)
    with pytest.raises(SystemExit):  # a release's files stay
        golden.main(["--release"])


def test_differences():
    """What the comparison of configurations finds, and what it lets pass."""
    recorded = {"a": [1, {"b": 0.1}], "c": None, "class_name": "tfconv>Conv2D", "module": "x"}
    same = {"a": [1, {"b": 0.1 + 1e-9}], "c": None, "class_name": "Conv2D", "d": "new"}
    assert differences(recorded, same) == []
    assert differences(recorded, {**same, "a": [1, {"b": 0.2}]}) == ["a.1.b was 0.1 and is 0.2"]
    assert differences(recorded, {**same, "a": [True, {"b": 0.1}]}) == ["a.0 was 1 and is True"]
    assert differences(recorded, {**same, "c": 0}) == ["c was None and is 0"]
    assert len(differences(recorded, {**same, "a": [1]})) == 1
    assert differences(recorded, {**same, "class_name": "Conv3D"}) == [
        "class_name was 'Conv2D' and is 'Conv3D'"
    ]
    del same["c"]
    assert differences(recorded, same) == ["c is gone"]


@pytest.fixture
def scratch_folder(tmp_path, monkeypatch):
    """A folder for records of one layer."""
    recorded = golden.record_path("WeightedSum")
    monkeypatch.setattr(golden, "FOLDER", tmp_path)
    monkeypatch.setattr(tfconv.layers, "__all__", ["WeightedSum"])
    if not KERAS_3:  # which writes models for records that are there
        shutil.copy(recorded, tmp_path)
    return tmp_path


def test_recording_replaces_nothing_unasked(scratch_folder, capsys):
    def written():
        files = [path for path in scratch_folder.rglob("*") if path.is_file()]
        return {str(path.relative_to(scratch_folder)): path.stat().st_mtime_ns for path in files}

    if tf.__version__.startswith("2.15") or KERAS_3:
        assert golden.main([]) == 0
        first = written()
        assert set(first) == {"WeightedSum.npz", f"{golden.WRITER}/WeightedSum.zip"}
        assert golden.main([]) == 0
        assert written() == first
        assert golden.main(["--replace", "WeightedSum"]) == 0
        now = written()
        assert now[f"{golden.WRITER}/WeightedSum.zip"] > first[f"{golden.WRITER}/WeightedSum.zip"]
        assert (now["WeightedSum.npz"] > first["WeightedSum.npz"]) == KERAS_3
        test_results("WeightedSum")
        (scratch_folder / "WeightedSum.npz").unlink()
    before = written()
    if not KERAS_3:
        with pytest.raises(SystemExit):
            golden.main(["--replace", "WeightedSum"])
        assert written() == before
    with pytest.raises(SystemExit):
        golden.main(["--replace", "Conv9D"])
    assert "there are no such layers: Conv9D" in capsys.readouterr().err


def test_missing_records_are_named(scratch_folder):
    with pytest.raises(AssertionError, match=r"keras-2/WeightedSum.zip.*python -m tests.golden"):
        test_every_layer_has_a_record()


@pytest.mark.parametrize(
    "make, old",
    [
        (lambda **name: tfconv.SqueezeExcite(**name), {"ratio": 4}),
        (lambda **name: tfconv.DynamicConv1D(4, 3, **name), {"num_kernels": 2}),
    ],
)
def test_old_names_warn_but_in_files(make, old, recwarn):
    (name,) = old
    with pytest.warns(FutureWarning, match=f"in place of `{name}`, which goes with tfconv 0.3"):
        layer = make(**old)
    assert recwarn.list == [] or recwarn.list[0].filename == __file__
    config = layer.get_config()
    new = RENAMED[name]
    assert config[new] == old[name] and name not in config
    recwarn.clear()
    again = type(layer).from_config({**{k: v for k, v in config.items() if k != new}, **old})
    assert getattr(again, new) == old[name]
    assert not recwarn.list


def test_files_say_who_wrote_them():
    layer = tfconv.Conv1D(2, 3)
    layer(tf.zeros([1, 8, 3]))
    assert "written_by" not in layer.get_config()
    config = layer.get_build_config()
    assert config["written_by"] == f"tfconv {tfconv.__version__}"
    other = tfconv.Conv1D(2, 3)
    other.build_from_config(config)
    assert other.built and other.kernel.shape == layer.kernel.shape
