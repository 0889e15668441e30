"""gRPC without generated code: messages and methods are made from what the server's reflection tells."""

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, json_format, message_factory
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

LIMIT = 10


class Server:
    """What one channel's server offers."""

    def __init__(self, channel):
        self.channel = channel
        self.database = ProtoReflectionDescriptorDatabase(channel)
        self.pool = descriptor_pool.DescriptorPool(self.database)

    def names(self):
        """The full names of its services."""
        return sorted(self.database.get_services())

    def service(self, name):
        """One of them, its methods callable by name."""
        return Service(self, self.pool.FindServiceByName(name))


class Service:
    """`service.Method({"field": …})` answers `(message, metadata)`, or the stream of a streaming method."""

    def __init__(self, server, descriptor):
        self.server = server
        self.methods = {method.name: method for method in descriptor.methods}
        self.name = descriptor.full_name

    def __getattr__(self, name):
        return lambda fields=None, **options: self.call(self.request(name, fields or {}), name, **options)

    def request(self, method, fields):
        """A method's request as a message; fields are as in JSON, under the names in the .proto file."""
        message = message_factory.GetMessageClass(self.methods[method].input_type)()
        return json_format.ParseDict(fields, message, descriptor_pool=self.server.pool)

    def call(self, request, method, metadata=(), timeout=LIMIT):
        """Sends a message made with `request`."""
        descriptor = self.methods[method]
        answer = message_factory.GetMessageClass(descriptor.output_type)
        kind = self.server.channel.unary_stream if descriptor.server_streaming else self.server.channel.unary_unary
        stub = kind(f"/{self.name}/{method}", type(request).SerializeToString, answer.FromString)
        if descriptor.server_streaming:
            return stub(request, metadata=metadata)
        message, call = stub.with_call(request, metadata=metadata, timeout=timeout)
        metadata = {key: value for key, value in (*call.initial_metadata(), *call.trailing_metadata())}
        return message, metadata


def _details():
    """google.rpc.Status, ErrorInfo and BadRequest, of which a client without googleapis knows just the wire format."""
    text, message, repeated = 9, 11, 3
    file = descriptor_pb2.FileDescriptorProto(name="details.proto", package="details", syntax="proto3")

    def add(name, *fields):
        declared = file.message_type.add(name=name)
        for number, (field, kind, label, type_name) in fields:
            declared.field.add(name=field, number=number, type=kind, label=label, type_name=type_name)

    add("Any", (1, ("type_url", text, 1, None)), (2, ("value", 12, 1, None)))
    add("Status", (1, ("code", 5, 1, None)), (2, ("message", text, 1, None)),
        (3, ("details", message, repeated, ".details.Any")))
    add("Entry", (1, ("key", text, 1, None)), (2, ("value", text, 1, None)))
    add("ErrorInfo", (1, ("reason", text, 1, None)), (2, ("domain", text, 1, None)),
        (3, ("metadata", message, repeated, ".details.Entry")))
    add("FieldViolation", (1, ("field", text, 1, None)), (2, ("description", text, 1, None)))
    add("BadRequest", (1, ("field_violations", message, repeated, ".details.FieldViolation")))
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    names = ("Status", "ErrorInfo", "BadRequest")
    return {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"details.{name}")) for name in names}


DETAILS = _details()


class Refusal:
    """A call that failed: code, message, ErrorInfo and the violated fields."""

    def __init__(self, code, message, details):
        self.code = code
        self.message = message
        self.reason = self.domain = None
        self.metadata = {}
        self.violations = {}
        for detail in DETAILS["Status"].FromString(details or b"").details:
            name = detail.type_url.rsplit("google.rpc.", 1)[-1]
            if name == "ErrorInfo":
                info = DETAILS[name].FromString(detail.value)
                self.reason, self.domain = info.reason, info.domain
                self.metadata = {entry.key: entry.value for entry in info.metadata}
            elif name == "BadRequest":
                violations = DETAILS[name].FromString(detail.value).field_violations
                self.violations = {violation.field: violation.description for violation in violations}

    def __str__(self):
        return f"{self.code} {self.reason}: {self.message} {self.violations or ''}"


def refusal(call):
    """How a call is refused; an error if it is not."""
    try:
        answer = call()
    except grpc.RpcError as error:
        details = dict(error.trailing_metadata() or ()).get("grpc-status-details-bin")
        return Refusal(error.code(), error.details(), details)
    raise AssertionError(f"it was not refused, but answered {answer}")
