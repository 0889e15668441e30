//! What a browser does: gRPC-Web over HTTP/1.1, without a library that could be kind to us.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
};

use flotilla_proto::users::v1::{CreateUserRequest, User};
use prost::Message;

use crate::harness::{PATIENCE, Server, directory};

/// An answer over HTTP/1.1.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: String,
    pub(crate) body: String,
    pub(crate) bytes: Vec<u8>,
}

pub(crate) fn get(address: SocketAddr, path: &str) -> Answer {
    send(address, &format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n"), &[])
}

fn send(address: SocketAddr, head: &str, body: &[u8]) -> Answer {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(body).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    let end = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n").unwrap();
    let headers = String::from_utf8(answer[..end].to_vec()).unwrap().to_lowercase();
    let chunked = headers.contains("transfer-encoding: chunked");
    let bytes = if chunked { unchunked(&answer[end + 4..]) } else { answer[end + 4..].to_vec() };
    Answer {
        status: headers.split(' ').nth(1).unwrap().parse().unwrap(),
        body: String::from_utf8_lossy(&bytes).into_owned(),
        headers,
        bytes,
    }
}

fn unchunked(mut bytes: &[u8]) -> Vec<u8> {
    let mut whole = Vec::new();
    loop {
        let line = bytes.windows(2).position(|end| end == b"\r\n").unwrap();
        let size = usize::from_str_radix(std::str::from_utf8(&bytes[..line]).unwrap(), 16).unwrap();
        if size == 0 {
            return whole;
        }
        whole.extend_from_slice(&bytes[line + 2..line + 2 + size]);
        bytes = &bytes[line + 2 + size + 2..];
    }
}

/// A unary gRPC-Web call: the answer, and its frames.
fn call(server: &Server, method: &str, message: &impl Message, headers: &str) -> (Answer, Vec<(u8, Vec<u8>)>) {
    let message = message.encode_to_vec();
    let mut body = vec![0];
    body.extend_from_slice(&u32::try_from(message.len()).unwrap().to_be_bytes());
    body.extend_from_slice(&message);
    let head = format!(
        "POST /{method} HTTP/1.1\r\nhost: {}\r\nconnection: close\r\ncontent-type: application/grpc-web+proto\r\n\
         x-grpc-web: 1\r\norigin: http://app.example.org\r\ncontent-length: {}\r\n{headers}\r\n",
        server.api,
        body.len()
    );
    let answer = send(server.api, &head, &body);
    let mut frames = Vec::new();
    let mut rest = &answer.bytes[..];
    while let [flag, a, b, c, d, tail @ ..] = rest {
        let (frame, after) = tail.split_at(u32::from_be_bytes([*a, *b, *c, *d]) as usize);
        frames.push((*flag, frame.to_vec()));
        rest = after;
    }
    (answer, frames)
}

fn create(email: &str) -> CreateUserRequest {
    let user = User { email: email.to_owned(), ..User::default() };
    CreateUserRequest { user: Some(user), request_id: email.to_owned() }
}

#[test]
fn a_browser_creates_a_user_over_plain_http() {
    let dir = directory();
    let server = Server::start(dir.path());
    let (answer, frames) = call(&server, "flotilla.users.v1.UsersService/CreateUser", &create("ada@example.org"), "");
    assert_eq!(answer.status, 200, "{}", answer.headers);
    assert!(answer.headers.contains("access-control-allow-origin: *"), "{}", answer.headers);
    assert!(answer.headers.contains("flotilla-revision"), "{}", answer.headers);
    let [(0, message), (0x80, trailers)] = &frames[..] else { panic!("{frames:?}") };
    assert_eq!(User::decode(&message[..]).unwrap().email, "ada@example.org");
    assert!(String::from_utf8_lossy(trailers).contains("grpc-status:0"), "{trailers:?}");
}

#[test]
fn a_browser_may_read_why_it_was_refused() {
    let dir = directory();
    let server = Server::start(dir.path());
    let (answer, _) = call(&server, "flotilla.users.v1.UsersService/CreateUser", &create("no address"), "");
    assert!(answer.headers.contains("grpc-status: 3"), "{}", answer.headers);
    assert!(answer.headers.contains("grpc-status-details-bin: "), "{}", answer.headers);
    let exposed = answer.headers.lines().find(|line| line.starts_with("access-control-expose-headers")).unwrap();
    assert!(exposed.contains("grpc-status-details-bin") && exposed.contains("flotilla-revision"), "{exposed}");
}

#[test]
fn a_browsers_preflight_is_answered() {
    let dir = directory();
    let server = Server::start(dir.path());
    let head = format!(
        "OPTIONS /flotilla.users.v1.UsersService/GetUser HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n\
         origin: http://app.example.org\r\naccess-control-request-method: POST\r\n\
         access-control-request-headers: content-type,x-grpc-web,flotilla-user\r\n\r\n",
        server.api
    );
    let answer = send(server.api, &head, &[]);
    assert_eq!(answer.status, 200, "{}", answer.headers);
    for name in ["flotilla-user", "flotilla-consistency", "grpc-timeout", "x-user-agent", "content-type"] {
        assert!(answer.headers.contains(name), "{name} is not allowed: {}", answer.headers);
    }
}

#[test]
fn an_expired_request_is_not_executed() {
    let dir = directory();
    let server = Server::start(dir.path());
    let method = "flotilla.users.v1.UsersService/CreateUser";
    let (answer, _) = call(&server, method, &create("late@example.org"), "grpc-timeout: 0n\r\n");
    assert!(answer.headers.contains("grpc-status: 4"), "{}", answer.headers);
    assert_eq!(server.json(&["users", "list"])["users"], serde_json::json!([]));
    let (answer, _) = call(&server, method, &create("late@example.org"), "grpc-timeout: 5S\r\n");
    assert!(!answer.headers.contains("grpc-status: 4"), "{}", answer.headers);
    assert_eq!(server.json(&["users", "list"])["users"][0]["email"], "late@example.org");
}
