//! A mailbox for one writer and one reader on different threads: the newest value wins, nobody waits, nothing is
//! allocated. Cameras, joints and prompts come in through one each, chunks go out through one.
//!
//! Three buffers are made once; the writer fills one, the reader holds one, the third lies in between.

use super::wake::Wake;

/// A mailbox whose three buffers start as `initial`; `wake` is called after every value.
pub fn mailbox<T: Clone + Send>(initial: &T, wake: &Wake) -> (Sender<T>, Receiver<T>) {
    let (input, output) = triple_buffer::triple_buffer(initial);
    let wake = wake.clone();
    let sender = Sender { input, wake };
    let receiver = Receiver { output, filled: false };
    (sender, receiver)
}

/// The writer's end.
#[derive(Debug)]
pub struct Sender<T: Send> {
    input: triple_buffer::Input<T>,
    wake: Wake,
}

impl<T: Send> Sender<T> {
    /// The buffer that the next [`send`](Self::send) hands over. It holds some older value: fill all of it. When
    /// that fails half way, do not send, and the reader never sees it.
    pub fn buffer(&mut self) -> &mut T {
        self.input.input_buffer_mut()
    }

    /// Hands the buffer over. True when the value before it was never taken.
    pub fn send(&mut self) -> bool {
        let overwritten = self.input.publish();
        self.wake.wake();
        overwritten
    }
}

/// The reader's end.
#[derive(Debug)]
pub struct Receiver<T: Send> {
    output: triple_buffer::Output<T>,
    filled: bool,
}

impl<T: Send> Receiver<T> {
    /// Takes the newest value in place of the one held. False when none has come since.
    pub fn take(&mut self) -> bool {
        let taken = self.output.update();
        self.filled |= taken;
        taken
    }

    /// Whether a value has come that was not taken.
    pub fn is_full(&self) -> bool {
        self.output.updated()
    }

    /// The value held; the initial one until the first was taken.
    pub fn value(&self) -> &T {
        self.output.output_buffer()
    }

    /// The value held: none until the first was taken.
    pub fn held(&self) -> Option<&T> {
        self.filled.then(|| self.output.output_buffer())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(sender: &mut Sender<u32>, value: u32) -> bool {
        *sender.buffer() = value;
        sender.send()
    }

    #[test]
    fn the_newest_value_wins_and_the_lost_one_is_told() {
        let (mut sender, mut receiver) = mailbox(&0, &Wake::default());
        assert!(!put(&mut sender, 1));
        assert!(put(&mut sender, 2));
        assert!(receiver.take());
        assert_eq!(receiver.held(), Some(&2));
    }

    #[test]
    fn a_value_is_taken_once_and_held_until_the_next() {
        let (mut sender, mut receiver) = mailbox(&0, &Wake::default());
        assert!(!receiver.take());
        assert_eq!(receiver.held(), None);
        put(&mut sender, 1);
        assert!(receiver.take() && !receiver.take());
        assert_eq!(receiver.held(), Some(&1));
    }

    #[test]
    fn a_buffer_that_was_not_sent_stays_unseen() {
        let (mut sender, mut receiver) = mailbox(&0, &Wake::default());
        put(&mut sender, 1);
        *sender.buffer() = 99;
        receiver.take();
        assert_eq!(receiver.held(), Some(&1));
    }
}
