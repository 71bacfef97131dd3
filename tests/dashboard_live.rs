//! The dashboard and the latency files of the live node, over real DDS: the node and this test are two processes on a ROS
//! domain of their own.
#![cfg(feature = "ros")]

#[path = "support/http.rs"]
mod http;
#[path = "support/ros.rs"]
mod ros;

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::task::Poll;

use futures::FutureExt;
use http::get;
use r2r::std_srvs::srv::Trigger;
use ros::{Domain, Process, pi0_node};
use tempfile::TempDir;

const CONFIG: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/config/aloha.yaml");
const BAG: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/aloha_transfer_cube");

/// A node with a tiny random model and these parameters.
fn start_node(domain: &Domain, folder: &Path, parameters: &[&str]) -> Process {
    let checkpoint = folder.join("tiny");
    let made = pi0_node(&["checkpoint", "init", "--preset", "tiny"]).arg(&checkpoint).output().unwrap();
    assert!(made.status.success(), "{made:?}");
    let mut command = pi0_node(&["run", "--ros-args", "--params-file", CONFIG]);
    command.args(["-p", &format!("checkpoint:={}", checkpoint.display())]);
    for parameter in parameters {
        command.args(["-p", parameter]);
    }
    domain.start("node", &mut command)
}

fn address(node: &Process) -> Option<SocketAddr> {
    let log = node.log();
    let (_, rest) = log.split_once("the dashboard is at http://")?;
    rest.split_whitespace().next()?.parse().ok()
}

#[test]
fn a_running_node_shows_itself_and_writes_its_latencies() {
    let folder = TempDir::new().unwrap();
    let latencies = folder.path().join("latencies");
    let mut domain = Domain::join();
    let latency_folder = format!("latency_folder:={}", latencies.display());
    let mut node = start_node(&domain, folder.path(), &["dashboard:=127.0.0.1:0", &latency_folder]);
    domain.spin_until("the dashboard", &mut [&node], |_| address(&node).is_some());
    let address = address(&node).unwrap();
    // From when the node is active.
    domain.spin_until("a waiting loop", &mut [&node], |_| {
        let health = get(address, "/healthz");
        (health.status, health.json()["state"].as_str()) == (503, Some("waiting"))
    });

    let mut command = pi0_node(&["play", "--loop", "--rate", "0.5", "--wait-for-subscribers", "4", BAG]);
    let mut player = domain.start("player", &mut command);
    domain.spin_until("a running loop", &mut [&node, &player], |_| get(address, "/healthz").status == 200);
    let status = get(address, "/api/status").json();
    assert!(status["node"]["model"].as_str().unwrap().starts_with("tiny, 10 denoising steps"), "{status}");
    assert!(status["sensors"].as_array().unwrap().iter().all(|sensor| sensor["level"] == "ok"), "{status}");
    domain.spin_until("a chunk", &mut [&node, &player], |_| !get(address, "/api/chunk").json().is_null());
    let cycles = get(address, "/api/cycles").json();
    let parts = cycles["breakdown"].as_array().unwrap().last().unwrap()[1].as_array().unwrap().clone();
    assert!(parts.iter().any(|part| part.as_f64().unwrap() > 0.0), "{cycles}");

    let client = domain
        .node
        .create_client::<Trigger::Service>("/pi0_node/dump_latency", r2r::QosProfile::services_default())
        .unwrap();
    let mut available = Box::pin(r2r::Node::is_available(&client).unwrap());
    domain.spin_until("the service", &mut [&node], |context| available.poll_unpin(context).is_ready());
    let mut answer = Box::pin(client.request(&Trigger::Request {}).unwrap());
    let mut response = None;
    domain.spin_until("its answer", &mut [&node], |context| {
        if let Poll::Ready(ready) = answer.poll_unpin(context) {
            response = Some(ready.unwrap());
        }
        response.is_some()
    });
    let response = response.unwrap();
    assert!(response.success && response.message.contains("files with latencies are in"), "{response:?}");
    player.stop("INT");
    node.stop("TERM");

    // One on request, one at the end.
    let dumps: Vec<_> = fs::read_dir(&latencies).unwrap().map(|dump| dump.unwrap().path()).collect();
    assert_eq!(dumps.len(), 2);
    for dump in dumps {
        assert!(
            dump.join("latency.json").exists() && dump.join("observation_to_chunk.hgrm").exists(),
            "{dump:?}"
        );
    }
}

#[test]
fn a_port_in_use_costs_the_node_nothing_but_its_dashboard() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let folder = TempDir::new().unwrap();
    let mut domain = Domain::join();
    let dashboard = format!("dashboard:={}", taken.local_addr().unwrap());
    let mut node = start_node(&domain, folder.path(), &[&dashboard]);
    domain.spin_until("the node", &mut [&node], |_| node.log().contains("is running on"));
    let log = node.log();
    assert!(
        log.contains("WARN there is no dashboard at 127.0.0.1:") && log.contains("going on without it"),
        "{log}"
    );
    node.stop("INT");
}

#[test]
fn a_dashboard_that_is_no_address_is_refused_by_name() {
    let folder = TempDir::new().unwrap();
    let domain = Domain::join();
    let (status, said) = start_node(&domain, folder.path(), &["dashboard:=localhost"]).wait();
    assert!(!status.success() && said.contains("dashboard: must be an IP address and a port"), "{said}");
}
