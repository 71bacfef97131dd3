//! config/grafana/pi0_node.json and config/prometheus.yml against what the node exports: every metric, label and label
//! value that a query names is there, and what Grafana needs of a dashboard is there.

#[path = "support/fake_robot.rs"]
mod fake_robot;
#[path = "support/http.rs"]
mod http;

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use fake_robot::FakeRobot;
use http::get;
use pi0_node::telemetry::Stage;
use serde_json::Value;

const GRAFANA: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/config/grafana/pi0_node.json");
const PROMETHEUS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/config/prometheus.yml");

fn dashboard() -> Value {
    serde_json::from_slice(&fs::read(GRAFANA).unwrap()).unwrap()
}

/// The panels that show something, and their queries.
fn queries(dashboard: &Value) -> Vec<(String, String)> {
    let panels = dashboard["panels"].as_array().unwrap().iter().filter(|panel| panel["type"] != "row");
    let queries = panels.flat_map(|panel| {
        let targets = panel["targets"].as_array().unwrap();
        assert!(!targets.is_empty(), "{panel}");
        targets.iter().map(|target| (text(&panel["title"]), text(&target["expr"])))
    });
    queries.collect()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("{value} is no text")).to_owned()
}

/// Words of a query that may name something.
fn words(query: &str) -> impl Iterator<Item = &str> {
    query.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))
}

#[test]
fn every_query_names_metrics_that_the_node_exports() {
    let mut robot = FakeRobot::new();
    robot.receive();
    robot.cycle(0.0);
    let server = robot.dashboard();
    let metrics = get(server.address(), "/metrics").body;
    let exported: BTreeSet<&str> = metrics
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split(['{', ' ']).next())
        .collect();
    let queries = queries(&dashboard());
    assert!(queries.len() > 15);
    let mut used = BTreeSet::new();
    for (title, query) in &queries {
        let named: Vec<&str> = words(query).filter(|word| word.starts_with("pi0_")).collect();
        assert!(!named.is_empty(), "{title}: {query}");
        for name in named {
            assert!(exported.contains(name), "{title}: {name} is not exported");
            used.insert(
                name.trim_end_matches("_bucket")
                    .trim_end_matches("_sum")
                    .trim_end_matches("_count")
                    .to_owned(),
            );
        }
    }
    // And the other way round: whatever is exported is shown.
    for name in metrics.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()) {
        assert!(used.contains(name), "no panel shows {name}");
    }
}

#[test]
fn the_parts_that_are_stacked_are_the_stages_that_add_up() {
    let queries = queries(&dashboard());
    let (_, query) = queries.iter().find(|(title, _)| title == "Mean of each part").unwrap();
    let parts = query.split("stage=~\"").nth(1).unwrap().split('"').next().unwrap();
    let stages = Stage::ALL.into_iter().filter(|stage| stage.adds_up()).map(Stage::name);
    assert_eq!(parts.split('|').collect::<Vec<_>>(), stages.collect::<Vec<_>>());
    for (title, query) in queries {
        for named in query.split("stage=\"").skip(1).filter_map(|rest| rest.split('"').next()) {
            assert!(
                Stage::ALL.iter().any(|stage| stage.name() == named),
                "{title}: there is no stage {named}"
            );
        }
    }
}

#[test]
fn the_dashboard_is_whole() {
    let dashboard = dashboard();
    assert_eq!(dashboard["title"], "pi0_node");
    assert!(dashboard["schemaVersion"].as_u64().unwrap() >= 36 && dashboard["uid"].is_string());
    let variables = dashboard["templating"]["list"].as_array().unwrap();
    assert_eq!(
        variables.iter().map(|variable| text(&variable["name"])).collect::<Vec<_>>(),
        ["datasource", "job"]
    );
    let panels = dashboard["panels"].as_array().unwrap();
    let ids: BTreeSet<u64> = panels.iter().map(|panel| panel["id"].as_u64().unwrap()).collect();
    assert_eq!(ids.len(), panels.len());
    let mut taken = BTreeSet::new();
    for panel in panels {
        let size = |name: &str| panel["gridPos"][name].as_u64().unwrap();
        assert!(size("x") + size("w") <= 24 && size("h") > 0, "{}", panel["title"]);
        for (x, y) in (size("x")..size("x") + size("w"))
            .flat_map(|x| (size("y")..size("y") + size("h")).map(move |y| (x, y)))
        {
            assert!(taken.insert((x, y)), "{} lies on another panel", panel["title"]);
        }
        let targets = panel["targets"].as_array().map(Vec::as_slice).unwrap_or_default();
        let references: BTreeSet<_> = targets.iter().map(|target| text(&target["refId"])).collect();
        assert_eq!(references.len(), targets.len(), "{}", panel["title"]);
        assert!(
            targets.iter().all(|target| target["datasource"]["uid"] == "${datasource}"),
            "{}",
            panel["title"]
        );
    }
}

/// Every query as Prometheus reads it, and the configuration, where its checker is installed.
#[test]
fn promtool_understands_every_query_and_the_configuration() {
    if Command::new("promtool").arg("--version").output().is_err() {
        println!("skipped: there is no promtool (Debian, Ubuntu: apt install prometheus)");
        return;
    }
    let run = |command: &mut Command| {
        let output = command.output().unwrap();
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        assert!(output.status.success(), "{said}");
    };
    run(Command::new("promtool").args(["check", "config", PROMETHEUS]));
    // Rules are the only form in which promtool checks queries without a server.
    let rules = queries(&dashboard()).into_iter().enumerate().map(|(number, (_, query))| {
        let query = query.replace("$__rate_interval", "1m").replace("$job", "pi0_node");
        serde_json::json!({ "record": format!("query:{number}"), "expr": query })
    });
    let file = tempfile::NamedTempFile::with_suffix(".yml").unwrap();
    let groups = serde_json::json!({ "groups": [{ "name": "queries", "rules": rules.collect::<Vec<_>>() }] });
    fs::write(file.path(), groups.to_string()).unwrap();
    run(Command::new("promtool").args(["check", "rules"]).arg(file.path()));
}
