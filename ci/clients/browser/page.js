// The tests, in a page: each result is posted to the page's own server, which counts.
"use strict";

const API = new URL(location.href).searchParams.get("api");
const USERS = "flotilla.users.v1.UsersService";
const LIMIT_MS = 15000;
const CALLER = { "flotilla-user": "ada", "flotilla-device": "browser", "flotilla-consistency": "linearizable" };

const user = (email, firstName) => message([1, message([2, email], [3, firstName])], [2, crypto.randomUUID()]);

function equal(found, wanted, what) {
  if (found !== wanted) throw new Error(`${what} is ${found} instead of ${wanted}`);
}

async function post(result) {
  await fetch("/result", { method: "POST", body: JSON.stringify(result) });
}

async function check(sentence, test) {
  const started = performance.now();
  let failure;
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`not done after ${LIMIT_MS} ms`)), LIMIT_MS);
  });
  try {
    await Promise.race([test(), late]);
  } catch (error) {
    failure = `${error}`;
  }
  clearTimeout(timer);
  await post({ sentence, failure, seconds: (performance.now() - started) / 1000 });
}

// A WatchUsers stream, read message by message as {heartbeat} or {kind, email, cursor}.
class Watch {
  static async start(request = new Uint8Array()) {
    const aborting = new AbortController();
    const call = await Call.start(`${USERS}/WatchUsers`, request, CALLER, aborting.signal);
    return new Watch(call, aborting);
  }

  constructor(call, aborting) {
    this.call = call;
    this.aborting = aborting;
  }

  async next() {
    const content = await this.call.next();
    if (content === null) throw new Error(`the stream ended: ${[...(this.call.trailers ?? [])]}`);
    const fields = fieldsOf(content);
    if (fields.has(2)) return { heartbeat: true, cursor: inner(fields, 2).get(1)[0] };
    const event = inner(fields, 1);
    return { kind: Number(event.get(1)?.[0] ?? 0n), email: text(inner(event, 2), 2), cursor: event.get(4)[0] };
  }

  cancel() {
    this.aborting.abort();
  }
}

async function run() {
  let id;

  await check("the page's origin is another one than the server's", async () => {
    if (new URL(API).origin === location.origin) throw new Error(`${API} is this page's own origin`);
  });

  await check("a browser creates a user by a unary gRPC-Web call, with metadata that the preflight allows", async () => {
    const created = await unary(`${USERS}/CreateUser`, user("ada@example.org", "Ada"), { ...CALLER, "grpc-timeout": "10S" });
    equal(created.status, 0, "the status");
    id = text(created.answer, 1);
    equal(id.length, 26, "the id's length");
    equal(text(created.answer, 2), "ada@example.org", "the email address");
  });

  await check("a page reads flotilla-revision of an answer", async () => {
    const { headers, trailers } = await unary(`${USERS}/GetUser`, message([1, id]), CALLER);
    const revision = Number(headers.get("flotilla-revision") ?? trailers.get("flotilla-revision"));
    if (!(revision > 0)) throw new Error(`flotilla-revision is ${revision}: ${[...headers]} ${[...trailers]}`);
  });

  await check("a browser reads the user back, and finds it in the list", async () => {
    const read = await unary(`${USERS}/GetUser`, message([1, id]), CALLER);
    equal(read.status, 0, "the status");
    equal(text(read.answer, 3), "Ada", "the first name");
    const listed = await unary(`${USERS}/ListUsers`, message([1, 10n], [4, "ad"]), CALLER);
    equal(listed.answer.get(1).length, 1, "the number of users listed");
    equal(text(fieldsOf(listed.answer.get(1)[0]), 1), id, "the id listed");
  });

  await check("a refusal shows its status and, by grpc-status-details-bin, its reason", async () => {
    const refused = await unary(`${USERS}/CreateUser`, user("ADA@example.org", "Ada"), CALLER);
    equal(refused.status, 6, "the status");
    const info = errorInfo(refused.trailers);
    equal(info.reason, "EMAIL_TAKEN", "the reason");
    equal(info.domain, "flotilla.dev", "the domain");
  });

  await check("a request whose deadline has passed is DEADLINE_EXCEEDED", async () => {
    const late = await unary(`${USERS}/CreateUser`, user("late@example.org", "Late"), { ...CALLER, "grpc-timeout": "1n" });
    equal(late.status, 4, "the status");
    const listed = await unary(`${USERS}/ListUsers`, message([3, "late@example.org"]), CALLER);
    equal(listed.answer?.get(1), undefined, "the user that was late");
  });

  let cursor;
  await check("a stream begins with a heartbeat and delivers what happens meanwhile, message by message", async () => {
    const watch = await Watch.start();
    equal((await watch.next()).heartbeat, true, "the first message being a heartbeat");
    for (const name of ["grace", "edsger"]) {
      const next = watch.next();
      const created = await unary(`${USERS}/CreateUser`, user(`${name}@example.org`, name), CALLER);
      equal(created.status, 0, "the status");
      const event = await next;
      equal(event.kind, 1, "the kind");
      equal(event.email, `${name}@example.org`, "the email address");
      cursor ??= event.cursor;
    }
    watch.cancel();
  });

  await check("a stream resumes from a cursor with what came after it", async () => {
    const watch = await Watch.start(message([1, cursor]));
    equal((await watch.next()).heartbeat, true, "the first message being a heartbeat");
    equal((await watch.next()).email, "edsger@example.org", "the email address");
    watch.cancel();
  });

  await check("four streams stand open beside a call, on HTTP/1.1", async () => {
    const watches = await Promise.all(Array.from({ length: 4 }, () => Watch.start()));
    await Promise.all(watches.map((watch) => watch.next()));
    const read = await unary(`${USERS}/GetUser`, message([1, id]), CALLER);
    equal(read.status, 0, "the status");
    watches.forEach((watch) => watch.cancel());
  });

  await check("metadata that the server doesn't allow is stopped by the browser", async () => {
    let stopped = false;
    await unary(`${USERS}/GetUser`, message([1, id]), { "not-allowed": "1" }).catch(() => (stopped = true));
    equal(stopped, true, "being stopped");
  });

  await post({ done: true });
}

run().catch((error) => post({ sentence: "the page runs to its end", seconds: 0, failure: `${error}` }).then(() => post({ done: true })));
