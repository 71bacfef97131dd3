//! The dashboard over real sockets: every path, what is refused, and clients that misbehave.

#[path = "support/fake_robot.rs"]
mod fake_robot;
#[path = "support/http.rs"]
mod http;

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use fake_robot::{CAMERAS, FakeRobot};
use http::{connect, get, request};
use pi0_node::control::Phase;
use pi0_node::telemetry::{DropReason, Stage};

/// A robot that ran for a while, with a late chunk and a drop.
fn ran() -> FakeRobot {
    let mut robot = FakeRobot::new();
    for cycle in 0..100 {
        robot.receive();
        match cycle {
            40 => robot.dropped(DropReason::JointsStale),
            70 => robot.cycle(40.0),
            _ => robot.cycle(0.0),
        }
    }
    robot
}

const PATHS: [&str; 8] =
    ["/", "/page.css", "/main.js", "/metrics", "/healthz", "/api/status", "/api/latency", "/api/cycles"];

#[test]
fn every_path_answers_with_its_type_and_the_security_headers() {
    let dashboard = ran().dashboard();
    for path in PATHS {
        let response = get(dashboard.address(), path);
        assert_eq!(response.status, 200, "{path}: {}", response.body);
        let content_type = match path {
            "/" => "text/html; charset=utf-8",
            "/page.css" => "text/css; charset=utf-8",
            "/main.js" => "text/javascript; charset=utf-8",
            "/metrics" => "text/plain; version=0.0.4; charset=utf-8",
            _ => "application/json",
        };
        assert_eq!(response.headers["content-type"], content_type, "{path}");
        let policy = &response.headers["content-security-policy"];
        assert!(policy.starts_with("default-src 'none'; ") && !policy.contains("unsafe"), "{policy}");
        assert!(!policy.contains("http"), "{policy}");
        assert_eq!(response.headers["x-content-type-options"], "nosniff");
        assert_eq!(response.headers["cache-control"], "no-store");
        let head = request(dashboard.address(), "HEAD", path, "");
        assert_eq!((head.status, head.body.as_str()), (200, ""), "{path}");
    }
    assert_eq!(get(dashboard.address(), "/etc/passwd").status, 404);
}

#[test]
fn the_page_needs_nothing_from_elsewhere() {
    let dashboard = ran().dashboard();
    let page = get(dashboard.address(), "/").body;
    let quoted = page.split('"').skip(1).step_by(2);
    let files: Vec<&str> = quoted.filter(|text| text.starts_with('/') && text.len() > 1).collect();
    assert!(files.len() >= 3, "{files:?}");
    for file in files {
        let response = get(dashboard.address(), file);
        assert_eq!(response.status, 200, "{file}");
        let text = response.body.replace("http://www.w3.org/", "");
        assert!(!text.contains("http://") && !text.contains("https://"), "{file}");
    }
}

#[test]
fn nothing_can_be_written() {
    let dashboard = FakeRobot::new().dashboard();
    for path in ["/", "/metrics", "/api/status", "/nowhere"] {
        for method in ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "BREW"] {
            let response = request(dashboard.address(), method, path, "");
            assert_eq!(response.status, 405, "{method} {path}");
            assert_eq!(response.headers["allow"], "GET, HEAD");
        }
    }
    for headers in ["Content-Length: 5\r\n", "Transfer-Encoding: chunked\r\n"] {
        assert_eq!(request(dashboard.address(), "GET", "/", headers).status, 413, "{headers}");
    }
}

#[test]
fn a_name_that_was_made_to_point_here_is_refused() {
    let dashboard = FakeRobot::new().dashboard();
    let ask = |host| request(dashboard.address(), "GET", "/api/status", &format!("Host: {host}\r\n")).status;
    assert_eq!(ask("evil.example:9464"), 421);
    assert_eq!(ask("localhost:9464"), 200);
}

#[test]
fn the_status_has_state_sensors_drops_and_misses() {
    let robot = ran();
    let dashboard = robot.dashboard();
    let status = get(dashboard.address(), "/api/status").json();
    assert_eq!(status["condition"]["state"], "running");
    assert_eq!(status["node"]["device"], "cpu (2 threads, avx512bf16, bf16)");
    assert_eq!(status["node"]["budget_ms"], 50.0);
    let names: Vec<_> =
        status["sensors"].as_array().unwrap().iter().map(|s| s["name"].as_str().unwrap()).collect();
    assert_eq!(names, [&CAMERAS[..], &["joints"]].concat());
    assert_eq!((&status["frame_sets"], &status["chunks"]), (&100.into(), &99.into()));
    for (list, names) in [
        ("dropped", DropReason::ALL.map(DropReason::name).to_vec()),
        ("missed", Stage::ALL.map(Stage::name).to_vec()),
    ] {
        let list = status[list].as_array().unwrap();
        assert_eq!(list.iter().map(|entry| entry["name"].as_str().unwrap()).collect::<Vec<_>>(), names);
        assert_eq!(list.iter().map(|entry| entry["total"].as_u64().unwrap()).sum::<u64>(), 1);
    }
}

#[test]
fn health_is_what_the_loop_does() {
    let mut robot = FakeRobot::new();
    let dashboard = robot.dashboard();
    let health = || {
        let response = get(dashboard.address(), "/healthz");
        (response.status, response.json())
    };
    let (status, body) = health();
    assert_eq!((status, body["state"].as_str()), (503, Some("waiting")));
    assert!(body["why"].as_str().unwrap().starts_with("nothing has come yet from base_0_rgb"), "{body}");
    robot.receive();
    robot.cycle(0.0);
    let (status, body) = health();
    assert_eq!((status, body["state"].as_str()), (200, Some("running")));
    robot.dropped(DropReason::JointsStale);
    let (status, body) = health();
    assert_eq!((status, body["state"].as_str()), (503, Some("waiting")));
    assert!(body["why"].as_str().unwrap().contains("no chunk: joints stale. The oldest joint is "), "{body}");
    robot.state.set(Phase::Holding, Some(DropReason::NotFinite));
    let (status, body) = health();
    assert_eq!((status, body["state"].as_str()), (503, Some("holding")));
    assert!(body["why"].as_str().unwrap().ends_with("actions not finite"), "{body}");
}

#[test]
fn latencies_are_total_and_recent_with_a_histogram() {
    let dashboard = ran().dashboard();
    let latency = get(dashboard.address(), "/api/latency").json();
    let all = latency["latencies"].as_array().unwrap();
    assert_eq!(all.len(), Stage::ALL.len() + CAMERAS.len() + 1);
    let named = |name: &str| all.iter().find(|latency| latency["name"] == name).unwrap();
    let total = &named("perceive")["total"];
    assert_eq!(total["count"], 99);
    let ms = |name: &str| total[name].as_f64().unwrap();
    assert!((12.0..20.0).contains(&ms("p50_ms")), "{total}");
    assert!(ms("p50_ms") <= ms("p90_ms") && ms("p99_ms") <= ms("p999_ms") && ms("p999_ms") <= ms("max_ms"));
    let bins = total["bins"].as_array().unwrap();
    assert_eq!(bins.iter().map(|bin| bin.as_u64().unwrap()).sum::<u64>(), 99);
    // Bin i ends at edge i.
    let first = total["first_bin"].as_u64().unwrap() as usize;
    let edges = latency["edges_ms"].as_array().unwrap();
    let edge = |index: usize| edges[index].as_f64().unwrap();
    assert!(edge(first - 1) <= ms("p50_ms") && ms("p50_ms") <= edge(first + bins.len() - 1));
    assert!(named("observation_to_chunk")["part"] == false && named("act")["part"] == true);
    assert_eq!(latency["end_to_end"], "observation_to_chunk");
}

#[test]
fn cycles_go_on_from_where_a_page_has_come() {
    let mut robot = ran();
    let dashboard = robot.dashboard();
    let all = get(dashboard.address(), "/api/cycles").json();
    let cycles = all["cycles"].as_array().unwrap();
    assert_eq!((cycles.len(), &all["next"]), (100, &100.into()));
    let reason = |cycle: usize| &all["reasons"][cycles[cycle][3].as_u64().unwrap() as usize];
    assert_eq!(reason(40), "joints_stale");
    assert!(cycles[41][3].is_null() && cycles[41][4].is_null() && cycles[40][2].is_null());
    assert_eq!(all["stages"][cycles[70][4].as_u64().unwrap() as usize], "act");
    assert!(cycles[70][2].as_f64().unwrap() > 50.0);
    let breakdown = all["breakdown"].as_array().unwrap();
    assert_eq!(breakdown.last().unwrap()[0], 99);
    assert_eq!(breakdown[0][1].as_array().unwrap().len(), all["parts"].as_array().unwrap().len());

    robot.cycle(0.0);
    let new = get(dashboard.address(), "/api/cycles?from=100").json();
    assert_eq!((new["cycles"].as_array().unwrap().len(), &new["next"]), (1, &101.into()));
    assert_eq!(get(dashboard.address(), "/api/cycles?from=x").status, 400);
}

#[test]
fn the_chunk_has_a_curve_per_joint() {
    let mut robot = FakeRobot::new();
    let dashboard = robot.dashboard();
    assert!(get(dashboard.address(), "/api/chunk").json().is_null());
    thread::sleep(Duration::from_millis(150));
    robot.cycle(0.0);
    let chunk = get(dashboard.address(), "/api/chunk").json();
    let joints = chunk["joints"].as_array().unwrap();
    assert_eq!((joints.len(), &joints[0]["name"]), (14, &"left_waist".into()));
    assert_eq!((joints[13]["positions"].as_array().unwrap().len(), &chunk["first"]), (48, &2.into()));
}

#[test]
fn metrics_have_every_stage_reason_and_sensor_and_add_up() {
    let dashboard = ran().dashboard();
    let text = get(dashboard.address(), "/metrics").body;
    let value = |sample: &str| -> f64 {
        let line = text.lines().find_map(|line| line.strip_prefix(sample)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no {sample} in {text}")).parse().unwrap()
    };
    assert_eq!(value("pi0_chunks_total"), 99.0);
    assert_eq!(value("pi0_drops_total{reason=\"joints_stale\"}"), 1.0);
    assert_eq!(value("pi0_deadline_misses_total{stage=\"act\"}"), 1.0);
    assert_eq!(value("pi0_latency_budget_seconds"), 0.05);
    assert_eq!(value("pi0_state{state=\"running\"}"), 1.0);
    assert_eq!(value("pi0_messages_received_total{sensor=\"joints\"}"), 300.0);
    assert!(value("pi0_sensor_age_seconds{sensor=\"base_0_rgb\"}") < 20.0);
    for stage in Stage::ALL {
        let name = stage.name();
        let count = value(&format!("pi0_stage_duration_seconds_count{{stage=\"{name}\"}}"));
        let below =
            |le: &str| value(&format!("pi0_stage_duration_seconds_bucket{{le=\"{le}\",stage=\"{name}\"}}"));
        assert_eq!(count, below("+Inf"));
        assert!(below("0.05") <= below("0.055") && below("0.055") <= count);
    }
    let sum = value("pi0_stage_duration_seconds_sum{stage=\"perceive\"}");
    assert!((1.4..1.8).contains(&sum), "{sum}");
    for reason in DropReason::ALL {
        value(&format!("pi0_drops_total{{reason=\"{}\"}}", reason.name()));
    }
    let build = text.lines().find(|line| line.starts_with("pi0_build_info{")).unwrap();
    assert!(build.contains(concat!("version=\"", env!("CARGO_PKG_VERSION"), "\"")), "{build}");

    let accept = "Accept: application/openmetrics-text;version=1.0.0\r\n";
    let open = request(dashboard.address(), "GET", "/metrics", accept);
    assert!(open.headers["content-type"].starts_with("application/openmetrics-text"));
    assert!(open.body.ends_with("# EOF\n") && open.body.contains("# TYPE pi0_chunks counter\n"));
}

#[test]
fn promtool_has_nothing_to_complain_about() {
    let dashboard = ran().dashboard();
    let text = get(dashboard.address(), "/metrics").body;
    let promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let Ok(mut promtool) = promtool else {
        println!("skipped: there is no promtool (Debian, Ubuntu: apt install prometheus)");
        return;
    };
    promtool.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = promtool.wait_with_output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    assert!(output.status.success() && said.is_empty(), "{}", String::from_utf8_lossy(&said));
}

/// How long an answer takes, in the worst of several tries.
fn slowest_answer(address: SocketAddr) -> Duration {
    let ask = |_| {
        let start = Instant::now();
        assert_eq!(get(address, "/api/status").status, 200);
        start.elapsed()
    };
    (0..5).map(ask).max().unwrap()
}

#[test]
fn clients_that_never_read_or_never_ask_hold_nobody_up() {
    let robot = ran();
    let dashboard = robot.dashboard();
    // Asks for more than the system's buffers hold, and reads nothing of it.
    let mut deaf: Vec<_> = (0..8).map(|_| connect(dashboard.address())).collect();
    for stream in &mut deaf {
        stream.set_write_timeout(Some(Duration::from_millis(300))).unwrap();
        let ask = format!("GET /metrics HTTP/1.1\r\nHost: {}\r\n\r\n", dashboard.address()).repeat(50);
        for _ in 0..40 {
            if stream.write_all(ask.as_bytes()).is_err() {
                break;
            }
        }
    }
    let mut silent: Vec<_> = (0..8).map(|_| connect(dashboard.address())).collect();
    silent.iter_mut().for_each(|stream| stream.write_all(b"GET / HT").unwrap());
    assert!(slowest_answer(dashboard.address()) < Duration::from_secs(2));

    // Nobody waits for them for ever: the connections end.
    let start = Instant::now();
    for mut stream in silent {
        let _ = stream.read_to_end(&mut Vec::new());
    }
    for mut stream in deaf {
        // What was not read makes the end a reset, seen by the next to write.
        while stream.write_all(b"G").map_err(|error| error.kind()) != Err(ErrorKind::ConnectionReset) {
            assert!(start.elapsed() < Duration::from_secs(15));
            thread::sleep(Duration::from_millis(50));
        }
    }
    assert!(start.elapsed() < Duration::from_secs(15), "{:?}", start.elapsed());
    assert!(slowest_answer(dashboard.address()) < Duration::from_secs(2));
    // And the end of the node waits for none.
    let start = Instant::now();
    drop(dashboard);
    assert!(start.elapsed() < Duration::from_secs(2));
}

#[test]
fn more_clients_than_there_are_places_are_turned_away_and_soon_served_again() {
    let dashboard = ran().dashboard();
    let held: Vec<_> = (0..200).map(|_| connect(dashboard.address())).collect();
    thread::sleep(Duration::from_millis(200));
    let refused = held.iter().filter(|stream| {
        stream.set_nonblocking(true).unwrap();
        let mut start = [0; 12];
        matches!(stream.peek(&mut start), Ok(12)) && start == *b"HTTP/1.1 503"
    });
    assert_eq!(refused.count(), 200 - 32);
    drop(held);
    thread::sleep(Duration::from_millis(200));
    assert!(slowest_answer(dashboard.address()) < Duration::from_secs(2));
}

#[test]
fn many_clients_at_once_are_all_served() {
    let robot = ran();
    let dashboard = robot.dashboard();
    thread::scope(|scope| {
        for _ in 0..16 {
            scope.spawn(|| {
                for path in PATHS.into_iter().cycle().take(64) {
                    assert_eq!(get(dashboard.address(), path).status, 200);
                }
            });
        }
    });
}

#[test]
fn a_port_in_use_is_told() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let error = FakeRobot::new().dashboard_at(&address).err().expect("the port is taken").to_string();
    assert!(error.contains(&address) && error.contains("has this port"), "{error}");
    assert!(error.contains("'dashboard'"), "{error}");
}

/// For whoever works on the page: `DASHBOARD=127.0.0.1:9464 cargo test --test dashboard -- --ignored a_robot_to_look_at`.
#[test]
#[ignore = "serves for ten minutes"]
fn a_robot_to_look_at() {
    let address = std::env::var("DASHBOARD").unwrap_or_else(|_| "127.0.0.1:9464".into());
    let mut robot = FakeRobot::new();
    let dashboard = robot.dashboard_at(&address).unwrap();
    println!("http://{}", dashboard.address());
    for cycle in 1..18_000 {
        robot.receive();
        match cycle % 400 {
            150 => robot.cycle(22.0),
            200..204 => robot.dropped(DropReason::JointsStale),
            _ => robot.cycle(0.0),
        }
        thread::sleep(Duration::from_millis(33));
    }
}
