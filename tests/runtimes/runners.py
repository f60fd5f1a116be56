"""Each runtime as a function: the outputs of a file by name for inputs by name.

Nothing here imports TensorFlow or tfconv: files run where these are not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

Arrays = dict[str, np.ndarray]


def litert(path: str, arrays: Arrays, outputs: Sequence[str]) -> Arrays:
    """LiteRT's interpreter, in which XNNPACK takes what it can."""
    return _interpreted(path, arrays)


def litert_plain(path: str, arrays: Arrays, outputs: Sequence[str]) -> Arrays:
    """LiteRT's interpreter without XNNPACK."""
    from ai_edge_litert.interpreter import OpResolverType

    plain = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    return _interpreted(path, arrays, experimental_op_resolver_type=plain)


def _interpreted(path: str, arrays: Arrays, **options) -> Arrays:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=path, num_threads=1, **options)
    return interpreter.get_signature_runner()(**arrays)


def litert_compiled(path: str, arrays: Arrays, outputs: Sequence[str]) -> Arrays:
    """LiteRT's newer interface, CompiledModel."""
    from ai_edge_litert.compiled_model import CompiledModel

    model = CompiledModel.from_file(path)
    ((key, names),) = model.get_signature_list().items()
    details = model.get_output_tensor_details(key)
    given = {name: model.create_input_buffer_by_name(key, name) for name in names["inputs"]}
    made = {name: model.create_output_buffer_by_name(key, name) for name in names["outputs"]}
    for name, buffer in given.items():
        buffer.write(np.ascontiguousarray(arrays[name]))
    model.run_by_name(key, given, made)
    shapes = {name: tuple(detail["shape"]) for name, detail in details.items()}
    return {
        name: np.asarray(buffer.read(int(np.prod(shapes[name])), np.float32)).reshape(shapes[name])
        for name, buffer in made.items()
    }


def tflite_micro(path: str, arrays: Arrays, outputs: Sequence[str]) -> Arrays:
    """TensorFlow Lite for microcontrollers, which knows tensors by their numbers."""
    from tflite_micro.python.tflite_micro import runtime

    size = 64 * Path(path).stat().st_size + (1 << 24)
    interpreter = runtime.Interpreter.from_file(path, arena_size=size)
    for number, array in enumerate(arrays.values()):
        interpreter.set_input(array, number)
    interpreter.invoke()
    return {name: interpreter.get_output(number) for number, name in enumerate(outputs)}


def onnx_runtime(path: str, arrays: Arrays, outputs: Sequence[str]) -> Arrays:
    """ONNX Runtime."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return dict(zip(outputs, session.run(list(outputs), arrays)))


def openvino(path: str, arrays: Arrays, outputs: Sequence[str]) -> Arrays:
    """OpenVINO, for all that it reads: ONNX, SavedModels, TensorFlow Lite."""
    from openvino import Core

    core = Core()
    # As Intel's processors compute: others have no bfloat16 by themselves.
    compiled = core.compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    given, left = {}, dict(arrays)
    for number, port in enumerate(compiled.inputs):
        named = (name for name in left if any(name in n.split(":")[0] for n in port.get_names()))
        given[number] = left.pop(next(named, next(iter(left))))
    results = compiled(given)
    return {name: results[number] for number, name in enumerate(outputs)}


RUNNERS: dict[str, Callable[[str, Arrays, Sequence[str]], Arrays]] = {
    "LiteRT": litert,
    "LiteRT without XNNPACK": litert_plain,
    "LiteRT CompiledModel": litert_compiled,
    "tflite-micro": tflite_micro,
    "ONNX Runtime": onnx_runtime,
    "OpenVINO": openvino,
}
