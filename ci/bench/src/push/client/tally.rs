//! What a client has sent and received: posts by number, deliveries by the number at the end of their text.

use std::time::Instant;

use super::histogram::Histogram;

/// The last bytes of a text: its post's number in hexadecimal.
pub(crate) const NUMBER_BYTES: usize = 8;

/// Posts, their answers and their deliveries, counted from one moment on.
pub(crate) struct Tally {
    began: Instant,
    /// How often each post is to be delivered.
    expected: u32,
    posts: Vec<Post>,
    /// Posts that everybody has received.
    pub(crate) complete: u32,
    /// Posts that were answered with OK, and those that were refused.
    pub(crate) answered: u32,
    pub(crate) refused: u32,
    /// Deliveries altogether.
    pub(crate) deliveries: u64,
    /// Streams that the server has begun.
    pub(crate) opened: usize,
    /// Posts from this number on are measured.
    first_measured: u32,
    /// From the sending of a post to each delivery.
    pub(crate) each: Histogram,
    /// From the sending of a post to its last delivery.
    pub(crate) last: Histogram,
    /// From the sending of a post to its answer.
    pub(crate) answer: Histogram,
    /// From the answer to a post to its last delivery; nothing, if that came first.
    pub(crate) after_answer: Histogram,
    /// Why it can't go on.
    pub(crate) trouble: Option<String>,
}

#[derive(Clone, Copy)]
struct Post {
    /// Nanoseconds since the beginning; 0: not yet.
    sent: u64,
    answered: u64,
    last: u64,
    received: u32,
}

impl Tally {
    pub(crate) fn new() -> Self {
        Self {
            began: Instant::now(),
            expected: 0,
            posts: Vec::new(),
            complete: 0,
            answered: 0,
            refused: 0,
            deliveries: 0,
            opened: 0,
            first_measured: 0,
            each: Histogram::default(),
            last: Histogram::default(),
            answer: Histogram::default(),
            after_answer: Histogram::default(),
            trouble: None,
        }
    }

    /// Nanoseconds since it began, never 0.
    pub(crate) fn now(&self) -> u64 {
        self.began.elapsed().as_nanos() as u64 | 1
    }

    /// From here on every post is to be delivered so often.
    pub(crate) fn expect(&mut self, deliveries: usize) {
        self.expected = deliveries as u32;
    }

    /// Forgets the times so far; only posts from here on are measured.
    pub(crate) fn measure_from_here(&mut self) {
        self.first_measured = self.posts.len() as u32;
        for histogram in [&mut self.each, &mut self.last, &mut self.answer, &mut self.after_answer] {
            *histogram = Histogram::default();
        }
    }

    /// Posts so far.
    pub(crate) fn posts(&self) -> u32 {
        self.posts.len() as u32
    }

    /// Posts that not everybody has received.
    pub(crate) fn underway(&self) -> u32 {
        self.posts() - self.complete
    }

    /// A post is sent at a moment; its number.
    pub(crate) fn post(&mut self, sent: u64) -> u32 {
        self.posts.push(Post { sent, answered: 0, last: 0, received: 0 });
        self.posts() - 1
    }

    /// A post was answered.
    pub(crate) fn answered(&mut self, number: u32, accepted: bool, now: u64) {
        if !accepted {
            self.refused += 1;
            return;
        }
        self.answered += 1;
        let Some(post) = self.posts.get_mut(number as usize) else { return };
        post.answered = now;
        if number >= self.first_measured {
            self.answer.note(now.saturating_sub(post.sent));
            if self.expected > 0 && post.received == self.expected {
                self.after_answer.note(post.last.saturating_sub(now));
            }
        }
    }

    /// A message came whose last bytes are these.
    pub(crate) fn delivered(&mut self, number: &[u8], now: u64) {
        let Some(number) = parse(number) else {
            self.trouble = Some(format!("a message without a number: {:?}", String::from_utf8_lossy(number)));
            return;
        };
        let Some(post) = self.posts.get_mut(number as usize) else {
            self.trouble = Some(format!("message {number} was never sent"));
            return;
        };
        self.deliveries += 1;
        post.received += 1;
        post.last = now;
        let measured = number >= self.first_measured;
        if measured {
            self.each.note(now.saturating_sub(post.sent));
        }
        if post.received == self.expected {
            self.complete += 1;
            if measured {
                self.last.note(now.saturating_sub(post.sent));
                if post.answered > 0 {
                    self.after_answer.note(now.saturating_sub(post.answered));
                }
            }
        }
    }
}

/// A text of so many bytes that ends with the number.
pub(crate) fn text(number: u32, bytes: usize) -> Vec<u8> {
    let mut text = vec![b'm'; bytes];
    let mut rest = number;
    for digit in text[bytes - NUMBER_BYTES..].iter_mut().rev() {
        *digit = b"0123456789abcdef"[(rest & 15) as usize];
        rest >>= 4;
    }
    text
}

fn parse(number: &[u8]) -> Option<u32> {
    number.iter().try_fold(0_u32, |sum, digit| {
        let digit = char::from(*digit).to_digit(16)?;
        Some(sum << 4 | digit)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_ends_with_its_number() {
        let text = text(0xBEEF, 128);
        assert_eq!(text.len(), 128);
        assert_eq!(parse(&text[128 - NUMBER_BYTES..]), Some(0xBEEF));
    }

    #[test]
    fn a_post_is_complete_when_everybody_has_it() {
        let mut tally = Tally::new();
        tally.expect(2);
        let number = tally.post(1);
        tally.delivered(b"00000000", 5);
        assert_eq!((number, tally.complete, tally.underway()), (0, 0, 1));
        tally.delivered(b"00000000", 9);
        assert_eq!((tally.complete, tally.underway(), tally.deliveries), (1, 0, 2));
        assert_eq!((tally.each.count(), tally.last.count()), (2, 1));
    }

    #[test]
    fn what_nobody_sent_is_trouble() {
        let mut tally = Tally::new();
        tally.delivered(b"00000007", 5);
        assert!(tally.trouble.is_some());
    }
}
