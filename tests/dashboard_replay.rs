//! A replay on the dashboard: the real loop's figures, in a build without ROS too.

#[path = "support/http.rs"]
mod http;
#[path = "support/program.rs"]
mod program;

use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpListener};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use http::get;
use program::{fails, succeeds};

const BAG: &str = "tests/data/aloha_transfer_cube";
const CONFIG: &str = "config/aloha.yaml";

/// Killed, should the test fail before it ends.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_replay_shows_itself_while_it_runs() {
    let folder = tempfile::tempdir().unwrap();
    let checkpoint = folder.path().join("tiny").display().to_string();
    succeeds(&["checkpoint", "init", "--preset", "tiny", &checkpoint]);
    let mut replay = Command::new(env!("CARGO_BIN_EXE_pi0_node"))
        .args(["replay", BAG, "--config", CONFIG, "--checkpoint", &checkpoint])
        .args(["--rate", "1", "--dashboard", "127.0.0.1:0"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let said = BufReader::new(replay.stderr.take().unwrap());
    let _replay = Running(replay);
    let mut lines = said.lines().map_while(Result::ok);
    let address: SocketAddr = lines
        .find_map(|line| line.strip_prefix("the dashboard is at http://")?.parse().ok())
        .expect("the replay says where its dashboard is");

    let end = Instant::now() + Duration::from_secs(60);
    while get(address, "/healthz").status != 200 || get(address, "/api/chunk").json().is_null() {
        assert!(Instant::now() < end, "{:?}", get(address, "/api/status"));
        thread::sleep(Duration::from_millis(50));
    }
    let status = get(address, "/api/status").json();
    assert!(status["node"]["device"].as_str().unwrap().starts_with("cpu"), "{status}");
    assert!(status["chunks"].as_u64().unwrap() > 0, "{status}");
    let latency = get(address, "/api/latency").json();
    let act = latency["latencies"].as_array().unwrap().iter().find(|entry| entry["name"] == "act").unwrap();
    assert!(act["total"]["count"].as_u64().unwrap() > 0, "{act}");
}

#[test]
fn a_replay_that_was_asked_for_a_dashboard_does_not_go_on_without() {
    let folder = tempfile::tempdir().unwrap();
    let checkpoint = folder.path().join("tiny").display().to_string();
    succeeds(&["checkpoint", "init", "--preset", "tiny", &checkpoint]);
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let message =
        fails(&["replay", BAG, "--config", CONFIG, "--checkpoint", &checkpoint, "--dashboard", &address]);
    assert!(message.contains("has this port"), "{message}");
}
