//! What live tests share: a ROS domain of their own, and processes that never outlive the test.

#![allow(dead_code, reason = "every test file uses a part of this")]

use std::net::{Ipv4Addr, UdpSocket};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::{Duration, Instant};

use futures::{FutureExt, Stream, StreamExt};
use r2r::WrappedServiceTypeSupport;
use r2r::lifecycle_msgs::msg::Transition;
use r2r::lifecycle_msgs::srv::ChangeState;
use r2r::qos::QosProfile;
use tempfile::TempDir;

/// Nothing here is about speed: this is when something has gone wrong, even for a debug build on a busy machine.
const PATIENCE: Duration = Duration::from_secs(180);
const PROFILES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/config/fastdds_shared_memory.xml");

/// The node's binary, on the tests' domain.
pub fn pi0_node(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pi0_node"));
    command.args(arguments).current_dir(env!("CARGO_MANIFEST_DIR"));
    command.env("ROS_DOMAIN_ID", DOMAIN_ID.to_string());
    command.env("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST");
    command.env("FASTRTPS_DEFAULT_PROFILES_FILE", PROFILES);
    command.env_remove("RUST_LOG");
    command
}

/// A domain whose first port nobody has: another run of these tests on this machine has one of its own.
static DOMAIN_ID: LazyLock<u16> = LazyLock::new(|| {
    // From 1 to 101, of which Linux's ephemeral ports leave all alone.
    let start = std::process::id() as u16 % 101;
    let candidates = (0..101).map(|offset| 1 + (start + offset) % 101);
    let free = |id: &u16| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 7400 + 250 * id + 10)).is_ok();
    candidates.into_iter().find(free).expect("every ROS domain of this machine is in use")
});

/// One test at a time on the tests' domain: all of them use the same topics.
static TURN: Mutex<()> = Mutex::new(());

/// This test's own node, and its turn on the domain.
pub struct Domain {
    pub node: r2r::Node,
    logs: TempDir,
    _turn: MutexGuard<'static, ()>,
}

impl Domain {
    pub fn join() -> Self {
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: every test that reads the environment waits for its turn, and these lines are the only ones to write.
        unsafe {
            std::env::set_var("ROS_DOMAIN_ID", DOMAIN_ID.to_string());
            std::env::set_var("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST");
            std::env::set_var("FASTRTPS_DEFAULT_PROFILES_FILE", PROFILES);
        }
        let context = r2r::Context::create().unwrap();
        Self {
            node: r2r::Node::create(context, "live_test", "").unwrap(),
            logs: TempDir::new().unwrap(),
            _turn: turn,
        }
    }

    /// Starts a process; what it prints goes to files, so that it never waits for us.
    pub fn start(&self, name: &'static str, command: &mut Command) -> Process {
        let file = |stream: &str| self.logs.path().join(format!("{name}.{stream}"));
        let (output, log) = (file("out"), file("err"));
        command.stdin(Stdio::null());
        command.stdout(std::fs::File::create(&output).unwrap());
        command.stderr(std::fs::File::create(&log).unwrap());
        let child = command.spawn().unwrap();
        Process { name, child, output, log }
    }

    /// Spins until `done`, which may poll subscriptions; fails when it takes too long or a process ends.
    pub fn spin_until(
        &mut self,
        what: &str,
        processes: &mut [&Process],
        mut done: impl FnMut(&mut Context<'_>) -> bool,
    ) {
        let mut context = Context::from_waker(Waker::noop());
        let end = Instant::now() + PATIENCE;
        while !done(&mut context) {
            let told = || processes.iter().map(|process| process.told()).collect::<String>();
            assert!(Instant::now() < end, "waited for {what} in vain;{}", told());
            for process in processes.iter() {
                assert!(process.is_running(), "the {} ended early;{}", process.name, told());
            }
            self.node.spin_once(Duration::from_millis(20));
        }
    }

    /// Calls a service as soon as it is there, and waits for the answer.
    pub fn call<S: WrappedServiceTypeSupport + 'static>(
        &mut self,
        processes: &mut [&Process],
        service: &str,
        request: &S::Request,
    ) -> S::Response {
        let client = self.node.create_client::<S>(service, QosProfile::services_default()).unwrap();
        let mut available = Box::pin(r2r::Node::is_available(&client).unwrap());
        self.spin_until(service, processes, |context| available.poll_unpin(context).is_ready());
        let mut answer = Box::pin(client.request(request).unwrap());
        let mut response = None;
        self.spin_until("an answer", processes, |context| {
            if let Poll::Ready(ready) = answer.poll_unpin(context) {
                response = Some(ready.unwrap());
            }
            response.is_some()
        });
        response.unwrap()
    }

    /// Takes the node through a transition of its lifecycle.
    pub fn change_state(&mut self, node: &Process, label: &str) -> bool {
        let transition = Transition { label: label.to_owned(), ..Transition::default() };
        let request = ChangeState::Request { transition };
        self.call::<ChangeState::Service>(&mut [node], "/pi0_node/change_state", &request).success
    }
}

/// Everything that has come, oldest first.
pub fn take<T>(stream: &mut (impl Stream<Item = T> + Unpin)) -> Vec<T> {
    std::iter::from_fn(|| stream.next().now_or_never().flatten()).collect()
}

/// A process that is killed, should the test fail before it stops it.
pub struct Process {
    name: &'static str,
    child: Child,
    output: PathBuf,
    log: PathBuf,
}

impl Process {
    /// What it logged so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }

    /// What it printed so far.
    pub fn output(&self) -> String {
        std::fs::read_to_string(&self.output).unwrap()
    }

    fn told(&self) -> String {
        let output = self.output();
        format!("\n== {}'s output\n{output}\n== its log\n{}", self.name, self.log())
    }

    fn is_running(&self) -> bool {
        // Asked of the system, because asking the child needs it mutable. A process that ended stays a zombie ('Z').
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap_or_default();
        stat.rsplit_once(") ").is_some_and(|(_, state)| !state.starts_with('Z'))
    }

    /// Sends a signal, waits, expects success, gives back the output.
    pub fn stop(&mut self, signal: &str) -> String {
        let pid = self.child.id().to_string();
        let sent = Command::new("kill").args([format!("-{signal}"), pid]).status().unwrap();
        assert!(sent.success());
        let (status, _) = self.wait();
        assert!(status.success(), "SIG{signal}: {status}{}", self.told());
        std::fs::read_to_string(&self.output).unwrap()
    }

    /// Waits for its end, gives back the status and the log.
    pub fn wait(&mut self) -> (ExitStatus, String) {
        let end = Instant::now() + PATIENCE;
        while Instant::now() < end {
            if let Some(status) = self.child.try_wait().unwrap() {
                return (status, self.log());
            }
            thread::sleep(Duration::from_millis(20));
        }
        panic!("the {} does not end;{}", self.name, self.told());
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
