"""README's tour by an outside client: Python's grpcio with reflection and health, no generated code of Flotilla's."""

import base64
import contextlib
import http.client
import math
import pathlib
import sys
import uuid

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.reflection_pb2 import ServerReflectionRequest as Request, ServerReflectionResponse as Response

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from reflected import Refusal, Server as Reflected, refusal
from suite import Reader, Server, Suite, wait_until
from threads import Threads

USERS = "flotilla.users.v1.UsersService"
RECORDS = "flotilla.records.v1.RecordsService"
CLUSTER = "flotilla.cluster.v1.ClusterService"
LONG_REQUEST_ID = {"table": "t", "id": "a", "request_id": "x" * 129}
# A client that lost its server tries again at once, not after a growing pause.
CHANNEL = [("grpc.min_reconnect_backoff_ms", 50), ("grpc.max_reconnect_backoff_ms", 200)]


def new_id():
    return uuid.uuid4().hex


def cursor(message):
    return {"history": message.history, "revision": str(message.revision), "index": message.index}


class Tour:
    def __init__(self, server, suite):
        self.server = server
        self.suite = suite
        self.channel = grpc.insecure_channel(server.api, options=CHANNEL)
        self.reflected = Reflected(self.channel)
        self.users = self.records = None

    def run(self):
        self.health()
        self.reflection()
        self.users = self.reflected.service(USERS)
        self.records = self.reflected.service(RECORDS)
        self.user_life()
        self.user_lists()
        self.user_watch()
        self.record_life()
        self.record_watch()
        self.request_ids()
        self.bad_input()
        self.deadlines()
        self.power()

    # --- What the server says of itself ---

    def health(self):
        for port, address in (("API", self.server.api), ("second", self.server.health)):
            with self.suite.check(f"health says SERVING on the {port} port, for the whole server and for each service"):
                with grpc.insecure_channel(address) as channel:
                    stub = health_pb2_grpc.HealthStub(channel)
                    for service in ("", USERS, RECORDS, CLUSTER):
                        answer = stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=5)
                        assert answer.status == health_pb2.HealthCheckResponse.SERVING, f"{service}: {answer}"
        with self.suite.check("health of a service that is not there is NOT_FOUND"):
            stub = health_pb2_grpc.HealthStub(self.channel)
            request = health_pb2.HealthCheckRequest(service="no.such.Service")
            assert refusal(lambda: stub.Check(request, timeout=5)).code == grpc.StatusCode.NOT_FOUND
        with self.suite.check("health can be watched"):
            watch = Reader(health_pb2_grpc.HealthStub(self.channel).Watch(health_pb2.HealthCheckRequest()))
            assert watch.next().status == health_pb2.HealthCheckResponse.SERVING
            watch.cancel()

    def reflection(self):
        with self.suite.check("reflection lists the services"):
            names = self.reflected.names()
            for name in (USERS, RECORDS, CLUSTER, "grpc.health.v1.Health"):
                assert name in names, f"{name} is not among {names}"
        with self.suite.check("reflection answers under its newer name too, grpc.reflection.v1"):
            path = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"
            stub = self.channel.stream_stream(path, Request.SerializeToString, Response.FromString)
            answer = next(stub(iter([Request(list_services="")]), timeout=5))
            assert USERS in [service.name for service in answer.list_services_response.service], answer
        with self.suite.check("every listed service of Flotilla's can be described"):
            for name in self.reflected.names():
                if name.startswith("flotilla."):
                    assert self.reflected.service(name).methods, name

    # --- Users ---

    def user_life(self):
        check = self.suite.check
        ada = {}
        with check("a user is created with id, times, etag and a name to show"):
            fields = {"email": "ada@example.org", "first_name": "Ada", "last_name": "Lovelace"}
            user, metadata = self.users.CreateUser({"user": fields, "request_id": new_id()})
            assert len(user.id) == 26 and user.etag, user
            assert user.display_name == "Ada Lovelace", user
            assert user.create_time == user.update_time, user
            ada["user"] = user
        with check("answers carry flotilla-revision, which grows with every change"):
            first = int(metadata["flotilla-revision"])
            fields = {"email": "grace@example.org", "first_name": "Grace", "last_name": "Hopper"}
            _, metadata = self.users.CreateUser({"user": fields, "request_id": new_id()})
            assert int(metadata["flotilla-revision"]) > first > 0, metadata
        with check("the same email address again, in other letters, is ALREADY_EXISTS with reason EMAIL_TAKEN"):
            again = {"user": {"email": "ADA@example.org"}, "request_id": new_id()}
            refused = refusal(lambda: self.users.CreateUser(again))
            assert refused.code == grpc.StatusCode.ALREADY_EXISTS, refused
            assert (refused.reason, refused.domain) == ("EMAIL_TAKEN", "flotilla.dev"), refused
            assert refused.metadata.get("field") == "user.email", refused.metadata
        with check("a user is read by id"):
            user, _ = self.users.GetUser({"id": ada["user"].id})
            assert user == ada["user"], user
        with check("a user that is not there is NOT_FOUND with its id"):
            unknown = "01ARZ3NDEKTSV4RRFFQ69G5FAV"
            refused = refusal(lambda: self.users.GetUser({"id": unknown}))
            assert (refused.code, refused.reason) == (grpc.StatusCode.NOT_FOUND, "USER_NOT_FOUND"), refused
            assert refused.metadata.get("user_id") == unknown, refused.metadata
        with check("a user is found by email address without regard to case"):
            page, _ = self.users.ListUsers({"email": "Ada@Example.org"})
            assert [user.id for user in page.users] == [ada["user"].id], page
        with check("an update changes what the mask names and nothing else"):
            change = {"id": ada["user"].id, "display_name": "Countess", "last_name": "ignored", "etag": ada["user"].etag}
            user, _ = self.users.UpdateUser({"user": change, "update_mask": "displayName", "request_id": new_id()})
            assert (user.display_name, user.last_name) == ("Countess", "Lovelace"), user
            assert user.etag != ada["user"].etag, user
        with check("a stale etag is ABORTED, and tells the current one"):
            change = {"id": ada["user"].id, "display_name": "Late", "etag": ada["user"].etag}
            stale = {"user": change, "update_mask": "displayName", "request_id": new_id()}
            refused = refusal(lambda: self.users.UpdateUser(stale))
            assert (refused.code, refused.reason) == (grpc.StatusCode.ABORTED, "ETAG_STALE"), refused
            current, _ = self.users.GetUser({"id": ada["user"].id})
            assert current.display_name == "Countess", current
            assert refused.metadata.get("etag") == current.etag, refused.metadata

    def user_lists(self):
        with self.suite.check("users are found by name prefix, page after page, each once"):
            made = []
            for number in range(7):
                fields = {"email": f"prefix{number}@example.org", "first_name": f"Pre{number}", "last_name": "Fix"}
                user, _ = self.users.CreateUser({"user": fields, "request_id": new_id()})
                made.append(user.id)
            found, sizes, token = [], [], ""
            while True:
                query = {"name_prefix": "pre", "page_size": 3, "page_token": token}
                page, _ = self.users.ListUsers(query)
                found.extend(user.id for user in page.users)
                sizes.append(len(page.users))
                token = page.next_page_token
                if not token:
                    break
            assert found == made, f"{found} instead of {made}"
            assert max(sizes) == 3 and len(sizes) >= 3, sizes
        with self.suite.check("a page token of another query is INVALID_ARGUMENT"):
            page, _ = self.users.ListUsers({"name_prefix": "pre", "page_size": 1})
            other = {"name_prefix": "fix", "page_size": 1, "page_token": page.next_page_token}
            refused = refusal(lambda: self.users.ListUsers(other))
            assert (refused.code, refused.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "PAGE_TOKEN_MISMATCH"), refused

    def user_watch(self):
        check = self.suite.check
        watch = Reader(self.users.WatchUsers())
        place = {}
        with check("a watch begins with a heartbeat that has a cursor"):
            first = watch.next()
            assert first.WhichOneof("item") == "heartbeat" and first.heartbeat.cursor.history, first
        with check("a watcher hears created, updated and deleted, in order, and whose request it was"):
            ids = [new_id() for _ in range(3)]
            fields = {"email": "watched@example.org", "first_name": "Wat"}
            user, _ = self.users.CreateUser({"user": fields, "request_id": ids[0]})
            change = {"user": {"id": user.id, "first_name": "Watt"}, "update_mask": "firstName", "request_id": ids[1]}
            self.users.UpdateUser(change)
            self.users.DeleteUser({"id": user.id, "request_id": ids[2]})
            events = [watch.next().event for _ in range(3)]
            assert [event.kind for event in events] == [1, 2, 3], events
            assert [event.request_id for event in events] == ids, events
            assert {event.user.id for event in events} == {user.id}, events
            assert (events[1].previous.first_name, events[1].user.first_name) == ("Wat", "Watt"), events[1]
            revisions = [event.cursor.revision for event in events]
            assert revisions == sorted(set(revisions)), revisions
            place["middle"], place["last"] = events[0].cursor, events[2].cursor
            place["rest"] = events[1:]
        with check("a cancelled watch ends"):
            watch.cancel()
            error = watch.end()
            assert error is not None and error.code() == grpc.StatusCode.CANCELLED, error
        with check("a watch that resumes from a cursor gets what came after it, without gap or duplicate"):
            meanwhile = new_id()
            self.users.CreateUser({"user": {"email": "meanwhile@example.org"}, "request_id": meanwhile})
            watch = Reader(self.users.WatchUsers({"cursor": cursor(place["middle"])}))
            assert watch.next().heartbeat.cursor == place["middle"]
            assert [watch.next().event for _ in range(2)] == place["rest"]
            assert watch.next().event.request_id == meanwhile
            watch.cancel()
        with check("a cursor of another history is answered with a reset, and the stream ends"):
            other = cursor(place["last"]) | {"history": "01ARZ3NDEKTSV4RRFFQ69G5FAV"}
            watch = Reader(self.users.WatchUsers({"cursor": other}))
            reset = watch.next()
            assert reset.WhichOneof("item") == "reset", reset
            assert reset.reset.cursor.history == place["last"].history, reset
            assert watch.end() is None

    # --- Records ---

    def record_life(self):
        check = self.suite.check
        skiff = {"length_m": 4.2, "owner": "ada", "sails": ["main", "jib"], "raced": False, "sold": None}
        with check("a record is put and read back"):
            put = {"table": "boats", "id": "skiff", "document": skiff, "request_id": new_id()}
            record, metadata = self.records.PutRecord(put)
            assert record.etag and record.create_time == record.update_time, record
            assert int(metadata["flotilla-revision"]) > 0, metadata
            read, _ = self.records.GetRecord({"table": "boats", "id": "skiff"})
            assert read == record, read
            assert read.document["length_m"] == 4.2 and list(read.document["sails"]) == ["main", "jib"], read
        with check("a record that is there is not created again"):
            again = {"table": "boats", "id": "skiff", "create_only": True, "request_id": new_id()}
            refused = refusal(lambda: self.records.PutRecord(again))
            assert (refused.code, refused.reason) == (grpc.StatusCode.ALREADY_EXISTS, "RECORD_EXISTS"), refused
        with check("a batch writes and deletes all or nothing, at one revision"):
            operations = [{"put": {"table": "boats", "id": f"b{n}", "document": {"n": n}}} for n in range(5)]
            answer, _ = self.records.BatchWrite({"operations": operations, "request_id": new_id()})
            assert answer.revision > 0 and answer.etag, answer
            operations = [{"put": {"table": "boats", "id": "b9"}}, {"delete": {"table": "boats", "id": "none"}}]
            refused = refusal(lambda: self.records.BatchWrite({"operations": operations, "request_id": new_id()}))
            assert (refused.code, refused.reason) == (grpc.StatusCode.NOT_FOUND, "RECORD_NOT_FOUND"), refused
            assert refused.metadata.get("operation") == "1", refused.metadata
            operations = [{"put": {"table": "boats", "id": "b5"}}, {"delete": {"table": "boats", "id": "b0"}}]
            self.records.BatchWrite({"operations": operations, "request_id": new_id()})
        with check("records are listed by id, page after page"):
            found, token = [], ""
            while True:
                page, _ = self.records.ListRecords({"table": "boats", "page_size": 2, "page_token": token})
                assert len(page.records) <= 2, page
                found.extend(record.id for record in page.records)
                token = page.next_page_token
                if not token:
                    break
            assert found == ["b1", "b2", "b3", "b4", "b5", "skiff"], found
        with check("a table exists while it holds a record"):
            page, _ = self.records.ListTables()
            assert [table.name for table in page.tables] == ["boats"], page
            page, _ = self.records.ListRecords({"table": "no-such-table"})
            assert not page.records and not page.next_page_token, page
        with check("a deleted record is gone"):
            self.records.DeleteRecord({"table": "boats", "id": "b1", "request_id": new_id()})
            refused = refusal(lambda: self.records.GetRecord({"table": "boats", "id": "b1"}))
            assert (refused.code, refused.reason) == (grpc.StatusCode.NOT_FOUND, "RECORD_NOT_FOUND"), refused

    def record_watch(self):
        with self.suite.check("a watch of one table hears its changes, a batch in order, and not another table's"):
            watch = Reader(self.records.WatchRecords({"tables": ["berths"]}))
            assert watch.next().WhichOneof("item") == "heartbeat"
            self.records.PutRecord({"table": "boats", "id": "other", "request_id": new_id()})
            operations = [{"put": {"table": "berths", "id": f"p{n}"}} for n in range(3)]
            operations.append({"put": {"table": "boats", "id": "other2"}})
            answer, _ = self.records.BatchWrite({"operations": operations, "request_id": new_id()})
            self.records.DeleteRecord({"table": "berths", "id": "p1", "request_id": new_id()})
            events = [watch.next().event for _ in range(4)]
            assert [event.record.id for event in events] == ["p0", "p1", "p2", "p1"], events
            assert [event.kind for event in events] == [1, 1, 1, 3], events
            assert {event.cursor.revision for event in events[:3]} == {answer.revision}, events
            watch.cancel()
            middle = Reader(self.records.WatchRecords({"tables": ["berths"], "cursor": cursor(events[0].cursor)}))
            assert middle.next().WhichOneof("item") == "heartbeat"
            assert [middle.next().event for _ in range(3)] == events[1:], "resumed in the middle of a transaction"
            middle.cancel()

    def request_ids(self):
        check = self.suite.check
        first = {"table": "once", "id": "a", "document": {"n": 1}, "request_id": new_id()}
        with check("the same request twice makes one record, and gets the first answer"):
            watch = Reader(self.records.WatchRecords({"tables": ["once"]}))
            watch.next()
            answer, metadata = self.records.PutRecord(first)
            again, metadata_again = self.records.PutRecord(first)
            assert again == answer, again
            assert metadata["flotilla-revision"] <= metadata_again["flotilla-revision"], metadata_again
            self.records.PutRecord({"table": "once", "id": "b", "request_id": new_id()})
            heard = [watch.next().event.record.id for _ in range(2)]
            assert heard == ["a", "b"], heard
            watch.cancel()
        with check("the same request id with another body is INVALID_ARGUMENT and changes nothing"):
            refused = refusal(lambda: self.records.PutRecord(first | {"document": {"n": 2}}))
            assert (refused.code, refused.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "REQUEST_ID_REUSED"), refused
            record, _ = self.records.GetRecord({"table": "once", "id": "a"})
            assert record.document["n"] == 1, record
        with check("another caller may use the same request id"):
            other = first | {"id": "c"}
            record, _ = self.records.PutRecord(other, metadata=[("flotilla-user", "grace")])
            assert record.id == "c", record

    def bad_input(self):
        check = self.suite.check
        with check("a number that is not finite is refused, naming the field"):
            for number in (math.nan, math.inf):
                put = self.records.request("PutRecord", {"table": "bad", "id": "nan", "request_id": new_id()})
                put.document.fields["depth"].number_value = number
                refused = refusal(lambda put=put: self.records.call(put, "PutRecord"))
                assert (refused.code, refused.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD"), refused
                assert any("document" in field for field in refused.violations), refused.violations
        cases = {
            "an email address without @": ("users", "CreateUser", {"user": {"email": "ada"}}, "user.email"),
            "an id that is no ULID": ("users", "GetUser", {"id": "ada"}, "id"),
            "a table name with a path": ("records", "PutRecord", {"table": "../etc", "id": "a"}, "table"),
            "a page token that is garbage": ("records", "ListRecords", {"table": "t", "page_token": "x"}, "page_token"),
            "a request id that is too long": ("records", "PutRecord", LONG_REQUEST_ID, "request_id"),
        }
        for what, (service, method, fields, field) in cases.items():
            with check(f"{what} is refused, naming {field}"):
                given = {"request_id": new_id()} | fields if method in ("CreateUser", "PutRecord") else fields
                refused = refusal(lambda: getattr(getattr(self, service), method)(given))
                assert (refused.code, refused.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD"), refused
                assert field in refused.violations, refused.violations

    def deadlines(self):
        put = {"table": "late", "id": "a", "request_id": new_id()}
        with self.suite.check("a request whose deadline has passed is DEADLINE_EXCEEDED and writes nothing"):
            # grpcio would not even send it, so this one is sent by hand, as gRPC-Web.
            refused = self.send_expired(self.records.request("PutRecord", put))
            assert (refused.code, refused.reason) == (grpc.StatusCode.DEADLINE_EXCEEDED, "DEADLINE_EXPIRED"), refused
            page, _ = self.records.ListRecords({"table": "late"})
            assert not page.records, page
        with self.suite.check("a deadline that leaves no time is DEADLINE_EXCEEDED, and a retry tells what happened"):
            refused = refusal(lambda: self.records.PutRecord(put, timeout=-1))
            assert refused.code == grpc.StatusCode.DEADLINE_EXCEEDED, refused
            record, _ = self.records.PutRecord(put)
            page, _ = self.records.ListRecords({"table": "late"})
            assert list(page.records) == [record], page

    def send_expired(self, request):
        """The refusal of a PutRecord that arrives with a deadline of a nanosecond."""
        body = request.SerializeToString()
        headers = {"content-type": "application/grpc-web+proto", "grpc-timeout": "1n", "x-grpc-web": "1"}
        connection = http.client.HTTPConnection(self.server.api, timeout=10)
        connection.request("POST", f"/{RECORDS}/PutRecord", b"\0" + len(body).to_bytes(4, "big") + body, headers)
        response = connection.getresponse()
        fields = {key.lower(): value for key, value in response.getheaders()}
        frames = response.read()
        connection.close()
        while frames:
            flags, length = frames[0], int.from_bytes(frames[1:5], "big")
            if flags & 0x80:
                lines = frames[5 : 5 + length].decode().strip().split("\r\n")
                fields |= {name.strip(): value.strip() for name, value in (line.split(":", 1) for line in lines)}
            frames = frames[5 + length :]
        codes = {code.value[0]: code for code in grpc.StatusCode}
        details = fields.get("grpc-status-details-bin", "")
        details = base64.b64decode(details + "=" * (-len(details) % 4))
        return Refusal(codes[int(fields["grpc-status"])], fields.get("grpc-message"), details)

    # --- A server that dies ---

    def power(self):
        check = self.suite.check
        put = {"table": "crash", "id": "kept", "document": {"n": 1}, "request_id": new_id()}
        watch = Reader(self.records.WatchRecords({"tables": ["crash"]}))
        place = watch.next().heartbeat.cursor
        kept, _ = self.records.PutRecord(put)
        with check("kill -9 ends a watch with UNAVAILABLE"):
            event = watch.next().event
            place = event.cursor
            self.server.kill()
            error = watch.end()
            assert error.code() == grpc.StatusCode.UNAVAILABLE, error
        with check("a killed server starts again by itself and has what it acknowledged"):
            self.server.start()
            record = wait_until("an answer after the restart", 10, lambda: self.read_again("crash", "kept"))
            assert record == kept, record
        with check("a retry from before the kill gets its first answer"):
            again, _ = self.records.PutRecord(put)
            assert again == kept, again
        with check("a watcher resumes over the kill by its cursor, without gap or duplicate"):
            watch = Reader(self.records.WatchRecords({"tables": ["crash"], "cursor": cursor(place)}))
            assert watch.next().heartbeat.cursor == place
            request = new_id()
            self.records.PutRecord({"table": "crash", "id": "after", "request_id": request})
            event = watch.next().event
            assert event.request_id == request, event
            watch.cancel()
        with check("the cell checks its hashes and finds them right"):
            answer, _ = self.reflected.service(CLUSTER).Check({"request_id": new_id()})
            assert answer.ok and answer.servers, answer
        with check("a server that is asked to stop ends its watches, and exits with 0"):
            watch = Reader(self.records.WatchRecords())
            watch.next()
            assert self.server.stop() == 0, self.server.tail()[-2000:]
            watch.end()

    def read_again(self, table, key):
        try:
            return self.records.GetRecord({"table": table, "id": key}, timeout=2)[0]
        except grpc.RpcError as error:
            assert error.code() == grpc.StatusCode.UNAVAILABLE, error
            return None


def main():
    suite = Suite()
    try:
        with Server() as server:
            Tour(server, suite).run()
        with Server() as server:
            Threads(server, suite).run()
    except Exception as error:
        suite.report("the tour runs to its end", 0, f"{type(error).__name__}: {error}")
    suite.finish()


main()
