//! A cell of one server without a network, and a service without methods.

use flotilla_kit::{Built, Call, Context, Definition, Intent, Local, Space};
use flotilla_replica::{Options, Replica};
use tempfile::TempDir;
use tokio::sync::watch;
use tonic::Request;

pub(crate) struct Cell {
    pub(crate) replica: Replica,
    pub(crate) stopping: watch::Sender<bool>,
    _data: TempDir,
}

impl Cell {
    pub(crate) async fn open() -> Self {
        let data = TempDir::new().expect("a folder for data");
        let options = Options { min_free_bytes: 0, ..Options::new(data.path()) };
        let replica = Replica::open(options).await.expect("a replica");
        Self { replica, stopping: watch::Sender::new(false), _data: data }
    }

    pub(crate) fn service(&self, space: u32) -> Context {
        let build = |_| Built { mount: Box::new(|_| {}), tasks: Vec::new() };
        let definition =
            Definition { name: "test", grpc_name: "test.v1.Test", needs: &[], space: Space::new(space), build };
        Context::new(self.replica.clone(), &definition, self.stopping.subscribe(), Local::default())
    }
}

pub(crate) fn call(metadata: &[(&'static str, &str)]) -> Call {
    let mut request = Request::new(());
    for (key, value) in metadata {
        request.metadata_mut().insert(*key, value.parse().expect("metadata"));
    }
    Call::of("test.Do", request).expect("a call").0
}

pub(crate) fn intent(id: &str) -> Intent {
    Intent::of(&call(&[]), id.into(), &"body".to_owned()).expect("an intent")
}
