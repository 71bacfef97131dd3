//! The page in a headless Chromium: it loads, updates by itself, shows a late chunk and a drop, and complains of nothing.
//! `SCREENSHOTS=docs` makes the pictures for docs/dashboard.md anew.

#[path = "support/browser.rs"]
mod browser;
#[path = "support/fake_robot.rs"]
mod fake_robot;

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Mutex, mpsc};
use std::thread;
use std::time::Duration;

use browser::Browser;
use fake_robot::FakeRobot;
use pi0_node::telemetry::DropReason;

/// What the robot is told to do next.
enum Event {
    Late,
    Drop,
    Pause(bool),
}

/// Runs the robot at 30 cycles a second while `test` looks at its page.
fn with_running_robot(robot: FakeRobot, test: impl FnOnce(&mpsc::Sender<Event>)) {
    let stop = AtomicBool::new(false);
    let (sender, events) = mpsc::channel();
    let robot = Mutex::new(robot);
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut robot = robot.lock().unwrap();
            let events = events;
            let mut paused = false;
            while !stop.load(SeqCst) {
                let event = events.try_recv();
                if let Ok(Event::Pause(pause)) = event {
                    paused = pause;
                }
                if !paused {
                    robot.receive();
                    match event {
                        Ok(Event::Late) => robot.cycle(40.0),
                        Ok(Event::Drop) => robot.dropped(DropReason::NotFinite),
                        _ => robot.cycle(0.0),
                    }
                }
                thread::sleep(Duration::from_millis(33));
            }
        });
        // Also when the test fails, for the thread above would run for ever.
        let _end = End(&stop);
        test(&sender);
    });
}

struct End<'a>(&'a AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, SeqCst);
    }
}

#[test]
fn the_page_loads_updates_and_shows_what_goes_wrong() {
    let Some(mut browser) = Browser::start() else {
        println!("skipped: there is no Chromium (Debian: apt install chromium)");
        return;
    };
    let robot = FakeRobot::new();
    let dashboard = robot.dashboard();
    browser.look(1440, 900, false);
    browser.open(&format!("http://{}/", dashboard.address()));
    with_running_robot(robot, |events| {
        let word = |word: &str| format!("document.getElementById('state-word').textContent === '{word}'");
        let shows =
            |id: &str, text: &str| format!("document.getElementById('{id}').textContent.includes('{text}')");
        browser.wait_until(&word("Running"));
        browser.wait_until(&shows("counts", "No deadline was missed"));
        browser.wait_until("parseFloat(document.getElementById('figure-p50').textContent) > 20");
        browser.wait_until("document.querySelectorAll('#joints .curve').length === 14");
        browser.wait_until("document.querySelectorAll('#breakdown g').length > 5");
        browser.wait_until("document.querySelectorAll('#latency .shape').length >= 6");
        browser.wait_until("document.querySelectorAll('#sensors .ok').length === 4");
        browser.wait_until(&shows("device", "cpu (2 threads"));

        // It goes on without being loaded again.
        let number = "parseInt(document.getElementById('chunk-note').textContent.match(/[0-9]+/))";
        let before = browser.evaluate(number).as_i64().unwrap();
        browser.wait_until(&format!("{number} > {before} + 10"));

        assert_eq!(browser.evaluate("document.querySelectorAll('#timeline .missed').length"), 0);
        events.send(Event::Late).unwrap();
        browser.wait_until("document.querySelectorAll('#timeline .missed').length === 1");
        browser.wait_until(&shows("counts", "late by act"));
        browser.wait_until(&shows("state-why", "late, most by act"));
        events.send(Event::Drop).unwrap();
        browser.wait_until("document.querySelectorAll('#timeline .dropped').length === 1");
        browser.wait_until(&shows("counts", "no chunk: actions not finite"));

        events.send(Event::Pause(true)).unwrap();
        browser.wait_until(&word("Waiting"));
        browser.wait_until(&shows("state-why", "base_0_rgb silent for"));
        events.send(Event::Pause(false)).unwrap();
        browser.wait_until(&word("Running"));

        // Wide or narrow, light or dark, nothing stands out of the window.
        for (width, dark) in [(1440, true), (1920, false), (1100, true), (800, false)] {
            browser.look(width, 900, dark);
            thread::sleep(Duration::from_millis(300));
            let wider = browser
                .evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth");
            assert_eq!(wider, 0, "at {width} pixels");
        }
        assert_eq!(browser.complaints, [""; 0]);

        drop(dashboard);
        browser.wait_until(&word("No answer"));
    });
}

/// The pictures of docs/dashboard.md: a minute and a half with a few mishaps.
#[test]
fn pictures_for_the_documentation() {
    let Some(folder) = std::env::var_os("SCREENSHOTS") else {
        println!("skipped: SCREENSHOTS does not name a folder");
        return;
    };
    let mut browser = Browser::start().expect("pictures need Chromium");
    let robot = FakeRobot::new();
    let dashboard = robot.dashboard();
    browser.look(1440, 900, false);
    browser.open(&format!("http://{}/", dashboard.address()));
    with_running_robot(robot, |events| {
        for event in 0..9 {
            thread::sleep(Duration::from_secs(10));
            let _ = events.send(if event % 4 == 2 { Event::Drop } else { Event::Late });
        }
        thread::sleep(Duration::from_secs(3));
        for (name, dark) in [("dashboard_light.png", false), ("dashboard_dark.png", true)] {
            browser.look(1440, 900, dark);
            let height = browser.evaluate("document.documentElement.scrollHeight").as_u64().unwrap();
            browser.look(1440, height as u32, dark);
            // For what depends on the size to be drawn anew.
            thread::sleep(Duration::from_millis(2500));
            browser.screenshot(&Path::new(&folder).join(name), 1440, height);
        }
    });
}
