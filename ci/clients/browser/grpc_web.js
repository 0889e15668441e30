// gRPC-Web by fetch and Protocol Buffers by hand: as much of both as the page needs, to show that nothing more is needed.
"use strict";

const encoder = new TextEncoder();
const decoder = new TextDecoder();

function concatenated(parts) {
  const whole = new Uint8Array(parts.reduce((length, part) => length + part.length, 0));
  let offset = 0;
  for (const part of parts) {
    whole.set(part, offset);
    offset += part.length;
  }
  return whole;
}

function varint(number) {
  const bytes = [];
  let rest = BigInt(number);
  while (rest > 127n) {
    bytes.push(Number(rest & 127n) | 128);
    rest >>= 7n;
  }
  bytes.push(Number(rest));
  return Uint8Array.from(bytes);
}

// A message from pairs of field number and value: a string, bytes (an inner message), or a BigInt.
function message(...fields) {
  const parts = [];
  for (const [number, value] of fields) {
    if (typeof value === "bigint") {
      parts.push(varint(number << 3), varint(value));
    } else {
      const bytes = typeof value === "string" ? encoder.encode(value) : value;
      parts.push(varint((number << 3) | 2), varint(bytes.length), bytes);
    }
  }
  return concatenated(parts);
}

// The fields of a message by number, each with all its values: BigInts and bytes.
function fieldsOf(bytes) {
  const fields = new Map();
  let offset = 0;
  const next = () => {
    let number = 0n;
    for (let shift = 0n; ; shift += 7n) {
      const byte = bytes[offset++];
      number |= BigInt(byte & 127) << shift;
      if (byte < 128) return number;
    }
  };
  while (offset < bytes.length) {
    const tag = Number(next());
    let value;
    if ((tag & 7) === 0) {
      value = next();
    } else if ((tag & 7) === 2) {
      const length = Number(next());
      value = bytes.subarray(offset, offset + length);
      offset += length;
    } else {
      throw new Error(`wire type ${tag & 7} at byte ${offset}`);
    }
    fields.set(tag >> 3, [...(fields.get(tag >> 3) ?? []), value]);
  }
  return fields;
}

function text(fields, number) {
  return decoder.decode(fields.get(number)?.[0] ?? new Uint8Array());
}

function inner(fields, number) {
  return fieldsOf(fields.get(number)?.[0] ?? new Uint8Array());
}

// A call's answer: its headers, then `next()` gives one message after the other, then null; `trailers` are then there.
class Call {
  static async start(method, request, metadata, signal) {
    const frame = concatenated([Uint8Array.of(0), new Uint8Array(4), request]);
    new DataView(frame.buffer).setUint32(1, request.length);
    const headers = { "content-type": "application/grpc-web+proto", "x-grpc-web": "1", ...metadata };
    const response = await fetch(`${API}/${method}`, { method: "POST", headers, body: frame, signal });
    return new Call(response);
  }

  constructor(response) {
    this.headers = response.headers;
    this.reader = response.body.getReader();
    this.bytes = new Uint8Array();
    // An answer without a body has its trailers as headers.
    this.trailers = response.headers.has("grpc-status") ? new Map(response.headers) : null;
  }

  async next() {
    for (;;) {
      const frame = this.takeFrame();
      if (frame && !(frame.flags & 128)) return frame.content;
      if (frame) {
        const lines = decoder.decode(frame.content).trim().split("\r\n");
        const pair = (line) => [line.slice(0, line.indexOf(":")).toLowerCase(), line.slice(line.indexOf(":") + 1).trim()];
        this.trailers = new Map(lines.map(pair));
        continue;
      }
      const { done, value } = await this.reader.read();
      if (done) return null;
      this.bytes = concatenated([this.bytes, value]);
    }
  }

  takeFrame() {
    if (this.bytes.length < 5) return null;
    const length = new DataView(this.bytes.buffer, this.bytes.byteOffset).getUint32(1);
    if (this.bytes.length < 5 + length) return null;
    const frame = { flags: this.bytes[0], content: this.bytes.subarray(5, 5 + length) };
    this.bytes = this.bytes.slice(5 + length);
    return frame;
  }
}

// A unary call: its status as a number, the answer's fields, headers and trailers.
async function unary(method, request, metadata = {}) {
  const call = await Call.start(method, request, metadata);
  let answer = null;
  for (let content = await call.next(); content; content = await call.next()) answer = content;
  if (!call.trailers) throw new Error("the answer ended without trailers");
  const status = Number(call.trailers.get("grpc-status"));
  return { status, answer: answer && fieldsOf(answer), headers: call.headers, trailers: call.trailers };
}

// google.rpc.ErrorInfo of a call's trailers: {reason, domain}.
function errorInfo(trailers) {
  const base64 = trailers.get("grpc-status-details-bin") ?? "";
  const status = fieldsOf(Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0)));
  for (const detail of status.get(3) ?? []) {
    const any = fieldsOf(detail);
    if (text(any, 1).endsWith("/google.rpc.ErrorInfo")) {
      const info = inner(any, 2);
      return { reason: text(info, 1), domain: text(info, 2) };
    }
  }
  return {};
}
