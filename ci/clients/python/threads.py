"""Threads by an outside client: what a program in any language needs to follow them over restarts of the server."""

import uuid

import grpc

from reflected import Server as Reflected, refusal
from suite import Reader, wait_until

USERS = "flotilla.users.v1.UsersService"
THREADS = "flotilla.threads.v1.ThreadsService"
UNKNOWN = "01ARZ3NDEKTSV4RRFFQ69G5FAV"
# A client that lost its server tries again at once, not after a growing pause.
CHANNEL = [("grpc.min_reconnect_backoff_ms", 50), ("grpc.max_reconnect_backoff_ms", 200)]


def new_id():
    return uuid.uuid4().hex


class Device:
    """A user's device: follows threads, and keeps its places itself."""

    def __init__(self, threads, user, name):
        self.threads = threads
        self.metadata = [("flotilla-user", user), ("flotilla-device", name)]
        self.places = {}
        self.events = []
        self.stream = None

    def open(self, **fields):
        """Subscribes from its places on; what is said up to the first heartbeat."""
        cursors = [{"thread_id": thread, "history": history, "sequence": str(sequence)}
                   for thread, (history, sequence) in self.places.items()]
        request = {"cursors": cursors} | fields
        self.stream = Reader(self.threads.Subscribe(request, metadata=self.metadata))
        said = []
        while True:
            message = self.stream.next()
            kind = message.WhichOneof("item")
            if kind == "heartbeat":
                assert not message.heartbeat.HasField("cursor") and message.heartbeat.time.seconds, message
                return said
            assert kind in ("started", "reset"), message
            cursor = message.started if kind == "started" else message.reset.cursor
            if kind == "started" and cursor.thread_id in self.places:
                place = self.places[cursor.thread_id]
                assert (cursor.history, cursor.sequence) == place, f"asked for {place}, started at {cursor}"
            self.places[cursor.thread_id] = (cursor.history, cursor.sequence)
            said.append(message)

    def read(self, count):
        """The next events, each the next of its thread."""
        read = []
        while len(read) < count:
            message = self.stream.next()
            if message.WhichOneof("item") == "heartbeat":
                continue
            if message.WhichOneof("item") == "started":
                self.places[message.started.thread_id] = (message.started.history, message.started.sequence)
                continue
            event = message.event
            history, sequence = self.places[event.thread_id]
            assert event.sequence == sequence + 1, f"after {sequence} comes {event}"
            self.places[event.thread_id] = (history, event.sequence)
            read.append(event)
        self.events.extend(read)
        return read

    def hears(self, event):
        """The next event must be this one."""
        heard = self.read(1)
        assert heard == [event], f"{heard} instead of {event}"

    def close(self):
        self.stream.cancel()
        self.stream.end()


class Threads:
    """Runs against a server of its own, which is stopped and killed."""

    def __init__(self, server, suite):
        self.server = server
        self.suite = suite
        self.channel = grpc.insecure_channel(server.api, options=CHANNEL)
        reflected = Reflected(self.channel)
        self.users = reflected.service(USERS)
        self.threads = reflected.service(THREADS)
        self.ada = self.bob = self.eve = self.thread = self.phone = self.acknowledged = None

    def run(self):
        self.create()
        self.follow()
        self.restarts()
        self.take_over()
        self.resets()
        self.refusals()
        self.removal()

    def user(self, name):
        fields = {"email": f"{name}@example.org", "display_name": name}
        return self.users.CreateUser({"user": fields, "request_id": new_id()})[0].id

    def by(self, user):
        return {"metadata": [("flotilla-user", user)]}

    def post(self, text, user=None, request_id=None):
        request = {"thread_id": self.thread, "message": {"text": text}, "request_id": request_id or new_id()}
        return self.threads.PostMessage(request, **self.by(user or self.ada))[0]

    def create(self):
        with self.suite.check("a thread is created with its members, whose joinings are its first events"):
            self.ada, self.bob, self.eve = (self.user(name) for name in ("ada", "bob", "eve"))
            create = {"thread": {"display_name": "harbour"}, "member_user_ids": [self.bob], "request_id": new_id()}
            thread, _ = self.threads.CreateThread(create, **self.by(self.ada))
            assert (thread.display_name, thread.member_count, thread.last_sequence) == ("harbour", 2, 2), thread
            self.thread = thread.id
            page, _ = self.threads.ListEvents({"thread_id": thread.id}, **self.by(self.bob))
            joined = [event.member_joined.member.user_id for event in page.events]
            assert joined == [self.ada, self.bob] and page.end.sequence == 2, page

    def follow(self):
        check = self.suite.check
        self.phone = Device(self.threads, self.bob, "phone")
        with check("a stream says where each thread starts, then that this was all, by a heartbeat"):
            said = self.phone.open()
            assert [message.started.thread_id for message in said] == [self.thread], said
            # A device that never acknowledged anything starts with its user's joining.
            assert said[0].started.sequence == 1, said
        with check("what is posted comes to a subscriber as it was answered"):
            posted = self.post("hello")
            events = self.phone.read(2)
            assert events[0].member_joined.member.user_id == self.bob and events[1] == posted, events
        with check("a post that is tried again is one event"):
            request_id = new_id()
            first = self.post("once", request_id=request_id)
            assert self.post("once", request_id=request_id) == first
            self.phone.hears(first)
            self.phone.hears(self.post("next"))
        with check("a device is listed as connected, with what it acknowledged"):
            history, sequence = self.phone.places[self.thread]
            self.acknowledged = sequence
            cursor = {"thread_id": self.thread, "history": history, "sequence": str(sequence)}
            ack = {"cursors": [cursor], "request_id": new_id()}
            answer, _ = self.threads.Ack(ack, metadata=self.phone.metadata)
            assert answer.cursors[0].sequence == sequence, answer
            page, _ = self.threads.ListDevices({"thread_id": self.thread}, **self.by(self.ada))
            found = [(device.user_id, device.device, device.connected, device.sequence) for device in page.devices]
            assert found == [(self.bob, "phone", True, sequence)], page

    def restarts(self):
        check = self.suite.check
        for what, end in (("is stopped", self.server.stop), ("is killed", self.server.kill)):
            with check(f"a stream ends with UNAVAILABLE when its server {what}, and goes on by its cursors afterwards"):
                end()
                error = self.phone.stream.end()
                assert error.code() == grpc.StatusCode.UNAVAILABLE, error
                self.server.start()
                again = (f"after it {what}", new_id())
                posted = [wait_until("a post after the restart", 10, lambda again=again: self.post_again(*again))]
                self.phone.open()
                posted.append(self.post("and once more"))
                events = self.phone.read(2)
                assert events == posted, f"{events} instead of {posted}"
        with check("what a device saw over all restarts is the thread: no event is missing, none came twice"):
            page, _ = self.threads.ListEvents({"thread_id": self.thread}, **self.by(self.bob))
            assert list(page.events)[1:] == self.phone.events, self.phone.events
        with check("a device without cursors goes on behind what it acknowledged before the restarts"):
            self.phone.close()
            self.phone.places = {}
            started = self.phone.open()[0].started
            assert started.sequence == self.acknowledged, started
            known = [event for event in self.phone.events if event.sequence > self.acknowledged]
            again = self.phone.read(len(known))
            assert again == known and len(known) == 4, again

    def post_again(self, text, request_id):
        try:
            return self.post(text, request_id=request_id)
        except grpc.RpcError as error:
            assert error.code() == grpc.StatusCode.UNAVAILABLE, error
            return None

    def take_over(self):
        with self.suite.check("a device's newer stream takes over, and the older one ends with DEVICE_TAKEN_OVER"):
            older = self.phone.stream
            self.phone.open()
            error = older.end()
            refused = refusal(lambda: self.raised(error))
            assert (refused.code, refused.reason) == (grpc.StatusCode.ABORTED, "DEVICE_TAKEN_OVER"), refused
            self.phone.hears(self.post("to the newer one"))

    @staticmethod
    def raised(error):
        raise error

    def resets(self):
        history, sequence = self.phone.places[self.thread]
        cases = {
            "of another history": (("another", 1), "HISTORY_CHANGED"),
            "that has not happened": ((history, sequence + 100), "SEQUENCE_IN_FUTURE"),
        }
        for what, (place, reason) in cases.items():
            with self.suite.check(f"a cursor {what} is answered by a reset with {reason}, and the stream goes on"):
                device = Device(self.threads, self.bob, "tablet")
                device.places = {self.thread: place}
                reset = device.open()[0].reset
                names = reset.DESCRIPTOR.fields_by_name["reason"].enum_type.values_by_number
                assert names[reset.reason].name == f"REASON_{reason}" and reset.message, reset
                page, _ = self.threads.ListEvents({"thread_id": self.thread}, **self.by(self.bob))
                assert page.events[-1].sequence == reset.cursor.sequence, "what ListEvents has is what lies before"
                device.hears(self.post("after the reset"))
                device.close()

    def refusals(self):
        message = {"message": {"text": "x"}, "request_id": new_id()}
        cases = {
            "a stranger": ("GetThread", {"id": self.thread}, self.eve, "PERMISSION_DENIED", "NOT_MEMBER"),
            "an unknown thread": ("GetThread", {"id": UNKNOWN}, self.ada, "NOT_FOUND", "THREAD_NOT_FOUND"),
            "a post of a stranger": (
                "PostMessage", message | {"thread_id": self.thread}, self.eve, "PERMISSION_DENIED", "NOT_MEMBER"),
            "an empty post": (
                "PostMessage", {"thread_id": self.thread, "request_id": new_id()}, self.ada, "INVALID_ARGUMENT",
                "INVALID_FIELD"),
            "a member who is one already": (
                "AddMember", {"thread_id": self.thread, "user_id": self.bob, "request_id": new_id()}, self.ada,
                "ALREADY_EXISTS", "MEMBER_EXISTS"),
            "a member who is no user": (
                "AddMember", {"thread_id": self.thread, "user_id": UNKNOWN, "request_id": new_id()}, self.ada,
                "NOT_FOUND", "USER_NOT_FOUND"),
        }
        for what, (method, fields, user, code, reason) in cases.items():
            with self.suite.check(f"{what} is refused with {reason}"):
                refused = refusal(lambda: getattr(self.threads, method)(fields, **self.by(user)))
                assert (refused.code.name, refused.reason, refused.domain) == (code, reason, "flotilla.dev"), refused
        with self.suite.check("a stream of a thread of others is refused with NOT_MEMBER, one without a device with CALLER_MISSING"):
            stranger = Device(self.threads, self.eve, "phone")
            for metadata, reason in ((stranger.metadata, "NOT_MEMBER"), (stranger.metadata[:1], "CALLER_MISSING")):
                stream = self.threads.Subscribe({"thread_ids": [self.thread]}, metadata=metadata)
                refused = refusal(lambda stream=stream: next(stream))
                assert refused.reason == reason, refused

    def removal(self):
        with self.suite.check("a removed member gets that event and nothing after it"):
            remove = {"thread_id": self.thread, "user_id": self.bob, "request_id": new_id()}
            # Whatever was posted since the phone read.
            last = self.threads.GetThread({"id": self.thread}, **self.by(self.ada))[0].last_sequence
            self.threads.RemoveMember(remove, **self.by(self.ada))
            self.post("secret")
            create = {"thread": {"display_name": "quay"}, "member_user_ids": [self.bob], "request_id": new_id()}
            quay, _ = self.threads.CreateThread(create, **self.by(self.ada))
            events = self.phone.read(last - self.phone.places[self.thread][1] + 2)
            assert events[-2].member_left.user_id == self.bob, events
            assert events[-1].thread_id == quay.id, events
            self.phone.close()
