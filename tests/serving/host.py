"""A stand-in for TF Serving's model server, on its gRPC interface. It is for tests only.

    python -I host.py NAME FOLDER [--max-message-bytes N] [--threads N] [--library FILE]

serves the versions of the model NAME in FOLDER, of which it loads the highest, by TensorFlow's
loader of SavedModels into a session, with the warm-up requests. It polls the folder: a new version
answers once it is loaded, and the old one is closed when its last request is done. Requests that
are wrong get the status codes that TF Serving gives them. It must not need tfconv, and cannot
import it. The line "port: N" on standard output says where it listens; it ends with its standard
input. LIBRARY has ops for models that were exported with native ones.
"""

import argparse
import contextlib
import sys
import threading
import time
from concurrent import futures
from pathlib import Path

sys.modules["tfconv"] = None  # importing it is an error from here on

import grpc  # noqa: E402
import tensorflow as tf  # noqa: E402
from tensorflow_serving.apis import (  # noqa: E402
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_log_pb2,
    prediction_service_pb2_grpc,
)

tf.get_logger().setLevel("ERROR")  # the loader of TensorFlow 1 is what is wanted
POLL_SECONDS = 0.1
Code = grpc.StatusCode
DEFAULT_SIGNATURE = "serving_default"


class Refused(Exception):
    """A request that cannot be answered: the code and the words of TF Serving."""

    def __init__(self, code, message):
        super().__init__(message)
        self.code = code


class Version:
    """A version of the model in a session of its own."""

    def __init__(self, path):
        self.number = int(path.name)
        self._users = 0
        self._closing = False
        self._lock = threading.Lock()
        self._session = tf.compat.v1.Session(graph=tf.Graph())
        with self._session.graph.as_default():
            meta_graph = tf.compat.v1.saved_model.load(self._session, ["serve"], str(path))
        self.signatures = dict(meta_graph.signature_def)
        self._calls = {}
        warmup = path / "assets.extra" / "tf_serving_warmup_requests"
        if warmup.exists():
            for record in tf.compat.v1.io.tf_record_iterator(str(warmup)):
                self.predict(
                    prediction_log_pb2.PredictionLog.FromString(record).predict_log.request
                )

    @contextlib.contextmanager
    def in_use(self):
        """Scope of a request: the version is not closed in it."""
        with self._lock:
            if self._closing:
                raise Refused(Code.NOT_FOUND, f"Servable not found: version {self.number}")
            self._users += 1
        try:
            yield
        finally:
            with self._lock:
                self._users -= 1

    def close(self):
        """Ends the version after the last of its requests."""
        with self._lock:
            self._closing = True
        while self._users:
            time.sleep(0.01)
        self._session.close()

    def predict(self, request):
        name = request.model_spec.signature_name or DEFAULT_SIGNATURE
        if name not in self.signatures:
            raise Refused(Code.FAILED_PRECONDITION, f'Serving signature key "{name}" not found.')
        signature = self.signatures[name]
        given, wanted = set(request.inputs), set(signature.inputs)
        if given != wanted:
            raise Refused(
                Code.INVALID_ARGUMENT,
                f"input size does not match signature: {len(given)}!={len(wanted)} Sent extra: "
                f"{sorted(given - wanted)}. Missing but required: {sorted(wanted - given)}.",
            )
        names = list(request.output_filter) or sorted(signature.outputs)
        if len(set(names)) < len(names) or not set(names) <= set(signature.outputs):
            raise Refused(
                Code.INVALID_ARGUMENT, f"output tensor alias not found in signature: {names}"
            )
        values = [self._value(key, request.inputs[key], signature) for key in sorted(wanted)]
        response = predict_pb2.PredictResponse()
        response.model_spec.name = request.model_spec.name
        response.model_spec.signature_name = name
        response.model_spec.version.value = self.number
        for key, array in zip(names, self._call(name, names)(*values)):
            response.outputs[key].CopyFrom(tf.make_tensor_proto(array))
        return response

    def _value(self, key, proto, signature):
        info = signature.inputs[key]
        shape = proto.tensor_shape
        if shape.unknown_rank or any(dim.size < 0 for dim in shape.dim) or not proto.dtype:
            raise Refused(Code.INVALID_ARGUMENT, f"{key} is no tensor")
        if proto.dtype != info.dtype:
            expected, received = tf.as_dtype(info.dtype).name, tf.as_dtype(proto.dtype).name
            raise Refused(
                Code.INVALID_ARGUMENT, f"Expects {key} to be {expected} but {received} is provided"
            )
        try:
            value = tf.make_ndarray(proto)
        except (TypeError, ValueError) as error:
            raise Refused(Code.INVALID_ARGUMENT, f"{key} is no tensor: {error}") from error
        if not tf.TensorShape(info.tensor_shape).is_compatible_with(value.shape):
            raise Refused(Code.INVALID_ARGUMENT, f"{key} has another shape: {value.shape}")
        return value

    def _call(self, name, outputs):
        key = (name, *outputs)
        if key not in self._calls:
            signature = self.signatures[name]
            self._calls[key] = self._session.make_callable(
                [signature.outputs[output].name for output in outputs],
                feed_list=[signature.inputs[given].name for given in sorted(signature.inputs)],
            )
        return self._calls[key]


class Host(
    prediction_service_pb2_grpc.PredictionServiceServicer,
    model_service_pb2_grpc.ModelServiceServicer,
):
    """The services, for one model."""

    def __init__(self, name, folder):
        self.name = name
        self.folder = folder
        self.version = None
        self.failed = set()

    def poll(self):
        """Loads the highest version if it is new, then drops the one before."""
        numbers = [int(path.name) for path in self.folder.iterdir() if path.name.isdecimal()]
        highest = max(numbers, default=None)
        old = self.version
        if highest is None or highest in self.failed or (old and old.number == highest):
            return
        try:
            self.version = Version(self.folder / str(highest))
        except Exception as error:  # it goes on with the old one, as TF Serving does
            print(f"version {highest} cannot be loaded: {error}", file=sys.stderr, flush=True)
            self.failed.add(highest)
            return
        if old:
            old.close()

    def Predict(self, request, context):
        return self._answer(context, request, lambda version: version.predict(request))

    def GetModelMetadata(self, request, context):
        def metadata(version):
            if not request.metadata_field:
                raise Refused(Code.INVALID_ARGUMENT, "must specify at least one metadata_field")
            for field in request.metadata_field:
                if field != "signature_def":
                    raise Refused(Code.INVALID_ARGUMENT, f"Metadata field {field} is not supported")
            signatures = get_model_metadata_pb2.SignatureDefMap()
            for name, signature in version.signatures.items():
                signatures.signature_def[name].CopyFrom(signature)
            response = get_model_metadata_pb2.GetModelMetadataResponse()
            response.model_spec.name = self.name
            response.model_spec.version.value = version.number
            response.metadata["signature_def"].Pack(signatures)
            return response

        return self._answer(context, request, metadata)

    def GetModelStatus(self, request, context):
        def status(version):
            response = get_model_status_pb2.GetModelStatusResponse()
            state = response.model_version_status.add(version=version.number)
            state.state = get_model_status_pb2.ModelVersionStatus.AVAILABLE
            for number in sorted(self.failed):
                failed = response.model_version_status.add(version=number)
                failed.state = get_model_status_pb2.ModelVersionStatus.END
            return response

        return self._answer(context, request, status)

    def _answer(self, context, request, answer):
        try:
            while True:
                version = self._find(request)
                with contextlib.ExitStack() as scope:
                    try:
                        scope.enter_context(version.in_use())
                    except Refused:
                        if request.model_spec.HasField("version"):
                            raise
                        continue  # a newer one has come in between
                    return answer(version)
        except Refused as refused:
            context.abort(refused.code, str(refused))
        except tf.errors.OpError as error:  # its codes have gRPC's numbers
            codes = {code.value[0]: code for code in Code}
            context.abort(codes[error.error_code], error.message)

    def _find(self, request):
        if not request.HasField("model_spec"):
            raise Refused(Code.INVALID_ARGUMENT, "Missing ModelSpec")
        spec, version = request.model_spec, self.version
        if spec.version_label:
            raise Refused(
                Code.FAILED_PRECONDITION,
                f"Unrecognized servable version label: {spec.version_label}",
            )
        wanted = spec.version.value if spec.HasField("version") else None
        if spec.name != self.name or version is None or wanted not in (None, version.number):
            which = "Latest" if wanted is None else "Specific"
            what = ", ".join([spec.name] if wanted is None else [spec.name, str(wanted)])
            raise Refused(Code.NOT_FOUND, f"Servable not found for request: {which}({what})")
        return version


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("name")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--max-message-bytes", type=int, default=64 << 20)
    parser.add_argument("--threads", type=int, default=40)
    parser.add_argument("--library")
    arguments = parser.parse_args()
    if arguments.library:
        tf.load_op_library(arguments.library)
    host = Host(arguments.name, arguments.folder)
    limit = ("grpc.max_receive_message_length", arguments.max_message_bytes)
    server = grpc.server(futures.ThreadPoolExecutor(arguments.threads), options=[limit])
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(host, server)
    model_service_pb2_grpc.add_ModelServiceServicer_to_server(host, server)
    port = server.add_insecure_port("localhost:0")
    server.start()
    host.poll()
    print(f"port: {port}", flush=True)
    ended = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), ended.set()), daemon=True).start()
    while not ended.wait(POLL_SECONDS):
        host.poll()
    server.stop(1)


if __name__ == "__main__":
    main()
