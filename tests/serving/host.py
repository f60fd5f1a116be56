"""A stand-in for TF Serving's model server, on its gRPC and REST interfaces. It is for tests only.

    python -I host.py NAME FOLDER [--max-message-bytes N] [--threads N] [--library FILE]

serves the versions of the model NAME in FOLDER, of which it loads the highest, by TensorFlow's
loader of SavedModels into a session, with the warm-up requests. It polls the folder: a new version
answers once it is loaded, and the old one is closed when its last request is done. Requests that
are wrong get the status codes that TF Serving gives them. It must not need tfconv, and cannot
import it. The line "ports: N M" on standard output says where it listens to gRPC and to REST; it
ends with its standard input. LIBRARY has ops for models that were exported with native ones.
"""

import argparse
import base64
import contextlib
import http.server
import json
import re
import sys
import threading
import time
from concurrent import futures
from pathlib import Path

sys.modules["tfconv"] = None  # importing it is an error from here on

import grpc  # noqa: E402
import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402
from google.protobuf import json_format  # noqa: E402
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


class RestContext:
    """What a service of gRPC answers wrong requests with, for REST."""

    HTTP = {Code.INVALID_ARGUMENT: 400, Code.FAILED_PRECONDITION: 400, Code.NOT_FOUND: 404}

    def abort(self, code, message):
        raise RestError(self.HTTP.get(code, 500), message)


class RestError(Exception):
    def __init__(self, code, message):
        super().__init__(message)
        self.code = code


class Rest(http.server.BaseHTTPRequestHandler):
    """``/v1/models/NAME[/versions/N]``: its status, ``/metadata`` and ``:predict``."""

    protocol_version = "HTTP/1.1"
    host = None

    def do_GET(self):
        self._answer(self._get)

    def do_POST(self):
        self._answer(self._post)

    def log_message(self, *_):
        pass

    def _answer(self, method):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        try:
            code, answer = 200, method(body)
        except RestError as error:
            code, answer = error.code, {"error": str(error)}
        content = json.dumps(answer).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _request(self, made, ending):
        path = re.fullmatch(rf"/v1/models/([^/:]+)(?:/versions/(\d+))?{ending}", self.path)
        if not path:
            raise RestError(404, f"Malformed request: {self.command} {self.path}")
        made.model_spec.name = path[1]
        if path[2]:
            made.model_spec.version.value = int(path[2])
        return made

    def _get(self, _):
        if self.path.endswith("/metadata"):
            request = self._request(get_model_metadata_pb2.GetModelMetadataRequest(), "/metadata")
            request.metadata_field.append("signature_def")
            answer = self.host.GetModelMetadata(request, RestContext())
        else:
            request = self._request(get_model_status_pb2.GetModelStatusRequest(), "")
            answer = self.host.GetModelStatus(request, RestContext())
        return json_format.MessageToDict(answer, preserving_proto_field_name=True)

    def _post(self, body):
        request = self._request(predict_pb2.PredictRequest(), ":predict")
        try:
            given = json.loads(body)
            by_row = "instances" in given
            values = given["instances"] if by_row else given["inputs"]
        except (ValueError, KeyError, TypeError) as error:
            raise RestError(400, f"JSON Parse error: {error!r}") from error
        request.model_spec.signature_name = given.get("signature_name", "")
        name = request.model_spec.signature_name or DEFAULT_SIGNATURE
        signature = getattr(self.host.version, "signatures", {}).get(name)
        if signature is not None:
            for key, column in self._columns(values, by_row, signature).items():
                dtype = tf.as_dtype(signature.inputs[key].dtype).as_numpy_dtype
                try:
                    array = np.array(_decoded(column), dtype)
                except (TypeError, ValueError) as error:
                    raise RestError(400, f"Failed to process element of {key}: {error}") from error
                request.inputs[key].CopyFrom(tf.make_tensor_proto(array))
        outputs = self.host.Predict(request, RestContext()).outputs
        found = {key: tf.make_ndarray(proto).tolist() for key, proto in outputs.items()}
        (first, *others) = found.values()
        if not by_row:
            return {"outputs": found if others else first}
        rows = [dict(zip(found, row)) for row in zip(*found.values())]
        return {"predictions": rows if others else first}

    def _columns(self, values, by_row, signature):
        """The values of each input."""
        names = list(signature.inputs)
        named = values[0] if by_row and values else values
        if not isinstance(named, dict) or set(named) == {"b64"}:
            if len(names) > 1:
                raise RestError(400, "Inputs need names")
            return {names[0]: values}
        return {key: [row[key] for row in values] for key in named} if by_row else dict(values)


def _decoded(value):
    """Values with bytes where base64 stands for them."""
    if isinstance(value, dict):
        return base64.b64decode(value["b64"])
    return [_decoded(each) for each in value] if isinstance(value, list) else value


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
    handler = type("Handler", (Rest,), {"host": host})
    rest = http.server.ThreadingHTTPServer(("localhost", 0), handler)
    threading.Thread(target=rest.serve_forever, daemon=True).start()
    print(f"ports: {port} {rest.server_port}", flush=True)
    ended = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), ended.set()), daemon=True).start()
    while not ended.wait(POLL_SECONDS):
        host.poll()
    rest.shutdown()
    server.stop(1)


if __name__ == "__main__":
    main()
