//! grpc.health.v1 with Check, Watch and List, over one phase of the whole server.
//!
//! tonic-health has no List and doesn't end its streams when a server drains, so only its messages
//! and its server's dispatch are taken. All services of a server are ready together, because they
//! stand on one log.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use futures::{
    StreamExt,
    future::BoxFuture,
    stream::{self, BoxStream},
};
use tokio::sync::watch;
use tonic::{
    Code, Request, Response, Status,
    body::Body,
    server::{Grpc, NamedService, UnaryService},
};
use tonic_health::pb::{
    HealthCheckRequest, HealthCheckResponse,
    health_check_response::ServingStatus,
    health_server::{self, HealthServer},
};
use tower::Service;

/// Where a server is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Phase {
    /// The store catches up with the log.
    Starting,
    /// Everything works.
    Serving,
    /// The log can't be written; reads go on.
    LogFailed,
    /// About to stop.
    Draining,
    /// The last moment of the second port.
    Stopped,
}

impl Phase {
    /// In a word, for `/readyz`.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Starting => "starting: the store catches up with the log",
            Self::Serving => "ready",
            Self::LogFailed => "the log failed: writes are refused until a restart",
            Self::Draining => "draining",
            Self::Stopped => "stopped",
        }
    }

    fn status(self) -> ServingStatus {
        match self {
            Self::Serving => ServingStatus::Serving,
            Self::Starting | Self::LogFailed | Self::Draining | Self::Stopped => ServingStatus::NotServing,
        }
    }
}

/// The health of a server. Clones share it.
#[derive(Clone)]
pub(super) struct Health {
    phase: watch::Sender<Phase>,
    /// The gRPC names of what is mounted.
    services: Arc<[&'static str]>,
}

impl Health {
    /// The health of a server that starts.
    pub(super) fn new(services: Vec<&'static str>) -> Self {
        Self { phase: watch::Sender::new(Phase::Starting), services: services.into() }
    }

    /// Goes on to a later phase; an earlier one is ignored, since no server returns to it.
    pub(super) fn set(&self, phase: Phase) {
        self.phase.send_if_modified(|current| {
            let later = phase > *current;
            if later {
                *current = phase;
            }
            later
        });
    }

    /// Where the server is now.
    pub(super) fn phase(&self) -> Phase {
        *self.phase.borrow()
    }

    /// As a gRPC service whose streams end when the server reaches a phase.
    pub(super) fn service(&self, last: Phase) -> HealthService {
        HealthService { inner: HealthServer::new(Answers { health: self.clone(), last }), health: self.clone() }
    }

    fn knows(&self, service: &str) -> bool {
        service.is_empty() || self.services.contains(&service)
    }
}

fn answer(status: ServingStatus) -> HealthCheckResponse {
    HealthCheckResponse { status: status.into() }
}

/// Check and Watch.
struct Answers {
    health: Health,
    last: Phase,
}

#[tonic::async_trait]
impl health_server::Health for Answers {
    async fn check(&self, request: Request<HealthCheckRequest>) -> Result<Response<HealthCheckResponse>, Status> {
        let service = &request.get_ref().service;
        match self.health.knows(service) {
            true => Ok(Response::new(answer(self.health.phase().status()))),
            false => Err(Status::new(Code::NotFound, format!("this server has no service {service:?}"))),
        }
    }

    type WatchStream = BoxStream<'static, Result<HealthCheckResponse, Status>>;

    async fn watch(&self, request: Request<HealthCheckRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let watcher = Watcher {
            phases: self.health.phase.subscribe(),
            known: self.health.knows(&request.get_ref().service),
            last: self.last,
            told: None,
            ended: false,
        };
        Ok(Response::new(stream::unfold(watcher, Watcher::next).boxed()))
    }
}

/// One Watch stream.
struct Watcher {
    phases: watch::Receiver<Phase>,
    known: bool,
    last: Phase,
    told: Option<ServingStatus>,
    ended: bool,
}

impl Watcher {
    /// The next status that differs from the one told. The phase that ends the stream is told too.
    async fn next(mut self) -> Option<(Result<HealthCheckResponse, Status>, Self)> {
        while !self.ended {
            let phase = *self.phases.borrow_and_update();
            self.ended = phase >= self.last;
            let status = if self.known { phase.status() } else { ServingStatus::ServiceUnknown };
            if self.told.replace(status) != Some(status) {
                return Some((Ok(answer(status)), self));
            }
            if !self.ended {
                self.phases.changed().await.ok()?;
            }
        }
        None
    }
}

/// Check, Watch and List.
#[derive(Clone)]
pub(super) struct HealthService {
    inner: HealthServer<Answers>,
    health: Health,
}

impl NamedService for HealthService {
    const NAME: &'static str = <HealthServer<Answers> as NamedService>::NAME;
}

impl Service<http::Request<Body>> for HealthService {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        match request.uri().path() {
            "/grpc.health.v1.Health/List" => {
                let list = List(self.health.clone());
                let mut grpc = Grpc::new(tonic_prost::ProstCodec::default());
                Box::pin(async move { Ok(grpc.unary(list, request).await) })
            }
            _ => self.inner.call(request),
        }
    }
}

struct List(Health);

impl UnaryService<HealthListRequest> for List {
    type Response = HealthListResponse;
    type Future = Pin<Box<dyn Future<Output = Result<Response<HealthListResponse>, Status>> + Send>>;

    fn call(&mut self, _: Request<HealthListRequest>) -> Self::Future {
        let status = self.0.phase().status();
        let names = self.0.services.iter().copied().chain([""]);
        let statuses = names.map(|name| (name.to_owned(), answer(status))).collect();
        Box::pin(std::future::ready(Ok(Response::new(HealthListResponse { statuses }))))
    }
}

/// `grpc.health.v1.HealthListRequest`.
#[derive(Clone, PartialEq, prost::Message)]
struct HealthListRequest {}

/// `grpc.health.v1.HealthListResponse`.
#[derive(Clone, PartialEq, prost::Message)]
struct HealthListResponse {
    #[prost(btree_map = "string, message", tag = "1")]
    statuses: BTreeMap<String, HealthCheckResponse>,
}

#[cfg(test)]
mod tests {
    use tonic_health::pb::health_server::Health as _;

    use super::*;

    fn request(service: &str) -> Request<HealthCheckRequest> {
        Request::new(HealthCheckRequest { service: service.to_owned() })
    }

    fn answers() -> (Health, Answers) {
        let health = Health::new(vec!["flotilla.users.v1.UsersService"]);
        (health.clone(), Answers { health, last: Phase::Draining })
    }

    #[tokio::test]
    async fn a_server_is_not_serving_until_it_says_so_and_again_when_it_drains() {
        let (health, answers) = answers();
        let mut statuses = Vec::new();
        for phase in [Phase::Starting, Phase::Serving, Phase::Draining] {
            health.set(phase);
            statuses.push(answers.check(request("")).await.unwrap().into_inner().status());
        }
        use ServingStatus::{NotServing, Serving};
        assert_eq!(statuses, [NotServing, Serving, NotServing]);
    }

    #[tokio::test]
    async fn a_service_that_is_not_mounted_is_not_found() {
        let (_, answers) = answers();
        assert!(answers.check(request("flotilla.users.v1.UsersService")).await.is_ok());
        assert_eq!(answers.check(request("x")).await.unwrap_err().code(), Code::NotFound);
    }

    #[tokio::test]
    async fn a_watcher_hears_every_turn_and_ends_with_the_drain() {
        let (health, answers) = answers();
        let mut stream = answers.watch(request("")).await.unwrap().into_inner();
        assert_eq!(stream.next().await.unwrap().unwrap().status(), ServingStatus::NotServing);
        health.set(Phase::Serving);
        assert_eq!(stream.next().await.unwrap().unwrap().status(), ServingStatus::Serving);
        health.set(Phase::Draining);
        assert_eq!(stream.next().await.unwrap().unwrap().status(), ServingStatus::NotServing);
        assert!(stream.next().await.is_none());
    }
}
