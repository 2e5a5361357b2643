//! Functions along a trajectory.

/// What stands for a value before the first and after the last known row of a trajectory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Edge {
    /// Null.
    Null,
    /// The nearest known value of the trajectory.
    Repeat,
    /// Zero in every coordinate.
    Zero,
}
