//! What a person reads first: where everything is, and what to try.

use std::env;

use super::{child::style, plan::Plan};
use crate::cli::talk::{self, HEADING};

pub(super) fn print(plan: &Plan) {
    talk::say(&format!("{}\n{}\nCtrl-C stops it and keeps the data.\n", places(plan), tries(plan)));
}

fn places(plan: &Plan) -> String {
    if plan.servers == 1 {
        return format!(
            "{HEADING}flotilla dev{HEADING:#}: one server, all services\n\
             \x20 gRPC, gRPC-Web  http://{}\n\
             \x20 metrics         http://{}/metrics\n\
             \x20 data            {}\n",
            plan.address(1),
            plan.health(1),
            plan.place.data_of(1).display()
        );
    }
    let mut text = format!(
        "{HEADING}flotilla dev{HEADING:#}: a cell of {} servers, of which {} {}; all services on each\n",
        plan.servers,
        plan.voters,
        if plan.voters == 1 { "votes" } else { "vote" },
    );
    for id in 1..=plan.servers {
        let style = style(id);
        let (api, health) = (plan.address(id), plan.health(id));
        text.push_str(&format!(
            "  {style}server {id}{style:#}  gRPC, gRPC-Web  http://{api}  metrics http://{health}/metrics\n"
        ));
    }
    text.push_str(&format!("  data      {}\n", plan.place.data().display()));
    text
}

fn tries(plan: &Plan) -> String {
    let flotilla = env::args().next().unwrap_or_else(|| "flotilla".to_owned());
    let at = |id: u64| format!(" --endpoint http://{}", plan.address(id));
    let first = if plan.address(1).port() == 7400 { String::new() } else { at(1) };
    let dir = match plan.place.dir().to_str() {
        Some(".dev") | None => String::new(),
        Some(dir) => format!(" --dir {dir}"),
    };
    let mut text = format!("{HEADING}Try in a second terminal{HEADING:#}\n");
    let mut line = |words: &str, flags: &str| text.push_str(&format!("  {flotilla} {words}{flags}\n"));
    line("users create --email ada@example.org --first-name Ada --last-name Lovelace", &first);
    if plan.servers > 1 {
        line("users list", &at(2));
        line("cluster status --watch", &at(2));
        line("dev kill 1", &dir);
        line("users create --email bob@example.org", &at(plan.servers));
        line("dev start 1", &dir);
        line("dev scale 5", &dir);
    } else {
        line("users list", &first);
        line("users watch", &first);
        line("cluster status", &first);
    }
    line("records put boats skiff '{\"length_m\": 4.2, \"owner\": \"ada\"}'", &first);
    line("threads create harbour --as ada", &first);
    line("threads watch --as ada", &first);
    line("threads post harbour hello --as ada", &first);
    line("top", &first);
    text
}
