//! The spin thread: it has the r2r node and takes every message off the network at once. Work of others that needs the
//! node (new topics when the node is configured, their end when it is cleaned up) is handed to it by [`Hand`].

use std::sync::mpsc::{self, Receiver, Sender};
use std::time::Duration;

use anyhow::Context;

use super::clock::Clock;
use super::graph::GraphWatch;
use super::inputs::Drain;
use super::stop::Stop;

/// What is emptied after every spin.
#[derive(Default)]
pub struct Ends {
    /// Parameters, lifecycle and the like: as long as the node.
    pub permanent: Vec<Drain>,
    /// Cameras and joints: as long as the node is configured.
    pub session: Vec<Drain>,
    /// Looks who publishes for the session.
    pub graph: Option<GraphWatch>,
}

type Work = Box<dyn FnOnce(&mut r2r::Node, &mut Ends) + Send>;

/// Lets other threads have something done with the node.
#[derive(Clone)]
pub struct Hand(Sender<Work>);

impl Hand {
    /// Has the spin thread do this between two spins, and waits for it.
    pub fn with<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut r2r::Node, &mut Ends) -> T + Send + 'static,
    ) -> anyhow::Result<T> {
        const ENDED: &str = "the spin thread has ended";
        let (sender, receiver) = mpsc::sync_channel(1);
        let work: Work = Box::new(move |node, ends| {
            let _ = sender.send(work(node, ends));
        });
        self.0.send(work).ok().context(ENDED)?;
        receiver.recv().context(ENDED)
    }
}

/// What the spin thread has.
pub struct Spin {
    node: r2r::Node,
    ends: Ends,
    clock: Clock,
    work: Receiver<Work>,
}

impl Spin {
    pub fn new(node: r2r::Node, ends: Ends, clock: Clock) -> (Self, Hand) {
        let (sender, work) = mpsc::channel();
        (Self { node, ends, clock, work }, Hand(sender))
    }

    /// Spins until it is time to stop.
    pub fn run(mut self, stop: &Stop) {
        const PATIENCE: Duration = Duration::from_millis(20);
        while !stop.is_set() {
            self.work.try_iter().for_each(|work| work(&mut self.node, &mut self.ends));
            self.node.spin_once(PATIENCE);
            self.clock.update(&self.node);
            let Ends { permanent, session, graph } = &mut self.ends;
            permanent.iter_mut().chain(session).for_each(|drain| drain());
            if let Some(graph) = graph {
                graph.look(&self.node);
            }
        }
    }
}
