//! `flotilla health`.

use clap::Args;
use flotilla_client::{Client, Target};
use serde_json::json;
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};

use super::{Failure, output::Output, row::Row};

/// Asks grpc.health.v1, on the main port or on the one for health; not serving is exit code 1.
#[derive(Debug, Args)]
pub(super) struct HealthOf {
    /// The full name of a gRPC service, such as flotilla.users.v1.UsersService [default: the server]
    service: Option<String>,
}

impl HealthOf {
    pub(super) async fn run(self, target: &Target, output: &mut Output) -> Result<(), Failure> {
        let client = Client::connect(&one_server(target)?).await?;
        let service = self.service.unwrap_or_default();
        let request = HealthCheckRequest { service: service.clone() };
        let answer = client
            .unary(request, |channel, request| async move { HealthClient::new(channel).check(request).await })
            .await?
            .into_inner();
        let status = answer.status().as_str_name().to_owned();
        output.document(
            &json!({ "service": service, "status": status }),
            &[Health { service: &service, status: &status }],
        )?;
        match answer.status() {
            ServingStatus::Serving => Ok(()),
            _ if service.is_empty() => Err(Failure::NotServing { service: "the server".to_owned(), status }),
            _ => Err(Failure::NotServing { service, status }),
        }
    }
}

/// The one server whose own word is wanted.
pub(super) fn one_server(target: &Target) -> Result<Target, Failure> {
    match target.endpoint.contains(',') {
        true => Err(Failure::Argument {
            argument: "--endpoint".to_owned(),
            reason: format!("{:?} names several servers, and this asks one: name that one", target.endpoint),
        }),
        false => Ok(target.clone().only_given()),
    }
}

/// A line of the table.
struct Health<'a> {
    service: &'a str,
    status: &'a str,
}

impl Row for Health<'_> {
    const COLUMNS: &'static [&'static str] = &["SERVICE", "STATUS"];

    fn cells(&self) -> Vec<String> {
        let service = if self.service.is_empty() { "(all)" } else { self.service };
        vec![service.to_owned(), self.status.to_owned()]
    }
}
