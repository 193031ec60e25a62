//! Guesses which files of a directory will be opened next. Programs that read all of it, or much,
//! take them as they are listed, by name, or by number, forwards or backwards.

use std::cmp::Ordering;
use std::ffi::OsString;

/// A file of a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Listed {
    pub ino: u64,
    pub name: OsString,
}

/// How somebody goes through a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Manner {
    order: Order,
    backwards: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    Name,
    Number,
    Listing,
}

/// Somebody who goes through a directory.
#[derive(Debug)]
pub(super) struct Sweep {
    manner: Manner,
    /// In the order in which they are expected.
    files: Vec<Listed>,
    /// Where the file is that was opened first.
    begun: usize,
    /// Where the one is that was opened furthest on.
    at: usize,
    /// Up to here they were asked for.
    asked: usize,
    /// How many may be asked for ahead.
    ahead: usize,
    met: usize,
    left_out: usize,
    unforeseen: usize,
}

impl Manner {
    /// In what manner the second of two files comes soon after the first, if in any. In the order
    /// of names and numbers files are neighbours by chance less often than as they are listed.
    pub fn of(files: &[Listed], first: u64, second: u64) -> Option<Self> {
        let (from, to) = (place_of(files, first)?, place_of(files, second)?);
        let manners = [Order::Name, Order::Number, Order::Listing].map(|order| {
            let (steps, backwards) = order.steps(files, from, to);
            (steps, Self { order, backwards })
        });
        let near = manners.into_iter().filter(|(steps, _)| (1..=NEAR).contains(steps));
        near.min_by_key(|(steps, _)| *steps).map(|(_, manner)| manner)
    }
}

impl Order {
    fn compare(self, one: &Listed, other: &Listed) -> Ordering {
        match self {
            Self::Name => one.name.cmp(&other.name),
            Self::Number => one.ino.cmp(&other.ino),
            Self::Listing => Ordering::Equal,
        }
    }

    /// How far it is from one file to the other, and whether backwards.
    fn steps(self, files: &[Listed], from: usize, to: usize) -> (usize, bool) {
        if self == Self::Listing {
            return (from.abs_diff(to), to < from);
        }
        let backwards = self.compare(&files[to], &files[from]).is_lt();
        let (low, high) = if backwards { (to, from) } else { (from, to) };
        let is_between = |file: &&Listed| {
            self.compare(file, &files[low]).is_gt() && self.compare(file, &files[high]).is_le()
        };
        (files.iter().filter(is_between).count(), backwards)
    }
}

impl Sweep {
    /// Of whoever has opened this file, and goes on in this manner.
    pub fn new(mut files: Vec<Listed>, manner: Manner, ino: u64) -> Option<Self> {
        files.sort_by(|one, other| manner.order.compare(one, other));
        if manner.backwards {
            files.reverse();
        }
        let begun = place_of(&files, ino)?;
        let (met, left_out, unforeseen) = (0, 0, 0);
        let (at, asked, ahead) = (begun, begun + 1, FIRST_AHEAD);
        Some(Self { manner, files, begun, at, asked, ahead, met, left_out, unforeseen })
    }

    /// Notes that a file was opened; false if it does not look any more as if others followed.
    pub fn goes_on(&mut self, ino: u64) -> bool {
        let reach = self.asked.saturating_add(MOST_AHEAD).min(self.files.len());
        let place = place_of(&self.files[self.at..reach], ino)
            .map(|steps| self.at + steps)
            .or_else(|| place_of(&self.files[self.begun..self.at], ino).map(|it| self.begun + it));
        match place {
            Some(place) if place > self.at => {
                match place < self.asked {
                    true => self.met += 1,
                    false => self.unforeseen += 1,
                }
                self.ahead = (2 * self.ahead).min(MOST_AHEAD);
                self.left_out += place - self.at - 1;
                self.at = place;
                self.asked = self.asked.max(place + 1);
            }
            // Another reader, a little later.
            Some(place) if place < self.at => self.left_out = self.left_out.saturating_sub(1),
            Some(_) => {}
            None => self.unforeseen += 1,
        }
        let is_whole = self.left_out <= 2 * self.met + MOST_AHEAD;
        is_whole && self.unforeseen <= self.met + NEAR
    }

    /// The files to ask for now; none while enough of them were.
    pub fn next(&mut self) -> &[Listed] {
        let end = (self.at + 1 + self.ahead).min(self.files.len());
        let asked = self.asked - (self.at + 1);
        let due = if 2 * asked <= self.ahead { self.asked..end } else { 0..0 };
        self.asked = self.asked.max(due.end);
        &self.files[due]
    }

    /// In what manner the files are expected.
    pub fn manner(&self) -> Manner {
        self.manner
    }

    /// Whether files that were asked for were opened.
    pub fn was_right(&self) -> bool {
        self.met > 0
    }

    /// Whether the last file was opened.
    pub fn is_over(&self) -> bool {
        self.at + 1 == self.files.len()
    }
}

fn place_of(files: &[Listed], ino: u64) -> Option<usize> {
    files.iter().position(|file| file.ino == ino)
}

/// Who leaves out no more than this is thought to follow an order.
const NEAR: usize = 3;
const FIRST_AHEAD: usize = 4;
const MOST_AHEAD: usize = 32;

#[cfg(test)]
mod tests {
    use super::*;

    /// Listed as 3, 0, 4, 1, 5, 2, named like their numbers from behind.
    fn listed(count: u64) -> Vec<Listed> {
        let file = |ino| Listed { ino, name: format!("{:05}", count - ino).into() };
        (0..count / 2).flat_map(|index| [index + count / 2, index]).map(file).collect()
    }

    fn manner(order: Order, backwards: bool) -> Option<Manner> {
        Some(Manner { order, backwards })
    }

    #[test]
    fn each_manner_is_seen_from_two_files() {
        let files = listed(100);
        for (pair, expected) in [
            ((60, 10), manner(Order::Listing, false)),
            ((10, 60), manner(Order::Listing, true)),
            // By number it is the same from behind: of equal ones the name counts.
            ((20, 21), manner(Order::Name, true)),
            ((21, 20), manner(Order::Name, false)),
            ((20, 23), manner(Order::Name, true)),
            ((20, 25), None),
            ((20, 20), None),
            ((20, 1000), None),
            ((1000, 20), None),
        ] {
            assert_eq!(Manner::of(&files, pair.0, pair.1), expected, "{pair:?}");
        }
        let shuffled: Vec<_> =
            [(7, "b"), (9, "a"), (8, "z"), (1, "c"), (5, "d"), (3, "e"), (2, "y")]
                .map(|(ino, name)| Listed { ino, name: name.into() })
                .into();
        assert_eq!(Manner::of(&shuffled, 7, 8), manner(Order::Number, false));
        assert_eq!(Manner::of(&shuffled, 8, 7), manner(Order::Number, true));
        assert_eq!(Manner::of(&shuffled, 8, 1), manner(Order::Listing, false));
        assert_eq!(Manner::of(&shuffled, 2, 8), manner(Order::Name, false));
    }

    #[test]
    fn all_files_are_asked_for_once_each_ahead_of_who_opens_them() {
        let by_number = Manner { order: Order::Number, backwards: true };
        let mut sweep = Sweep::new(listed(200), by_number, 199).unwrap();
        let (mut asked, mut most) = (Vec::new(), 0);
        asked.extend(sweep.next().iter().map(|file| file.ino));
        assert_eq!(asked, [198, 197, 196, 195]);
        for ino in (0..199).rev() {
            assert!(asked.contains(&ino), "{ino} had to wait");
            assert!(sweep.goes_on(ino) && sweep.was_right());
            asked.extend(sweep.next().iter().map(|file| file.ino));
            most = most.max(asked.len() as u64 - (199 - ino));
            assert_eq!(sweep.is_over(), ino == 0);
        }
        assert_eq!(asked, (0..199).rev().collect::<Vec<_>>());
        assert_eq!(most, MOST_AHEAD as u64);
    }

    #[test]
    fn who_does_something_else_is_not_followed_far() {
        let by_number = Manner { order: Order::Number, backwards: false };
        let sweep = || Sweep::new(listed(10_000), by_number, 0).unwrap();
        assert!(Sweep::new(listed(10), by_number, 10).is_none());

        let mut strays = sweep();
        let gone = (0..100).find(|index| !strays.goes_on(9000 - 10 * index)).unwrap();
        assert!(gone <= NEAR as u64 + 1 && !strays.was_right());

        // Every tenth file only.
        let mut sparse = sweep();
        let mut asked = 0;
        let gone = (1..100).find(|index| {
            asked += sparse.next().len();
            !sparse.goes_on(10 * index)
        });
        assert!(gone.unwrap() < 10 && asked < 150, "{gone:?} {asked}");

        // The other way: the first two were opened in reverse by chance.
        let mut reverse = Sweep::new(listed(10_000), by_number, 500).unwrap();
        assert!((0..NEAR as u64).all(|index| reverse.goes_on(499 - index)));
        assert!(!reverse.goes_on(400) && !reverse.was_right());

        // Several readers, each with the next file, do not come in turn.
        let mut jittered = Sweep::new(listed(1000), by_number, 0).unwrap();
        let order = (0..124).flat_map(|group| (0..8).rev().map(move |index| 8 * group + index));
        assert!(order.skip(8).all(|index| {
            jittered.next();
            jittered.goes_on(index)
        }));

        // A second time, as programs do that look at a file before they copy it.
        let mut twice = sweep();
        assert!((1..100).all(|index| {
            twice.next();
            twice.goes_on(index) && twice.goes_on(index)
        }));
    }
}
