//! What can be wrong with a line, each once named, so that the planted list can be held against what was found.

/// One way in which a line is no event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Defect {
    /// The writer was killed in the middle of the line.
    CutOff,
    InvalidUtf8,
    DuplicateKey,
    /// Another value behind the object.
    TrailingText,
    NotAnObject,
    /// `NaN` for a number.
    NotANumber,
    /// The new SDK writes the quantity as text, now and then.
    QuantityIsText,
    StatusIsText,
    UserIdHasFraction,
    UserIdTooLarge,
    PriceTooFine,
    /// An integer that a double would round.
    ScoreWouldRound,
    TimeIsNoTime,
    /// Finer than a microsecond.
    TimeTooFine,
    TimeMissing,
    IdMissing,
    /// Microseconds, which milliseconds do not hold: the target would get another time.
    TimeFinerThanMillis,
    /// More than the target takes.
    TooLarge,
}

/// When a defect shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shows {
    /// As soon as the line is read.
    AtDecoding,
    /// When the row should become a record.
    AtRendering,
}

impl Defect {
    pub const ALL: [Self; 18] = [
        Self::CutOff,
        Self::InvalidUtf8,
        Self::DuplicateKey,
        Self::TrailingText,
        Self::NotAnObject,
        Self::NotANumber,
        Self::QuantityIsText,
        Self::StatusIsText,
        Self::UserIdHasFraction,
        Self::UserIdTooLarge,
        Self::PriceTooFine,
        Self::ScoreWouldRound,
        Self::TimeIsNoTime,
        Self::TimeTooFine,
        Self::TimeMissing,
        Self::IdMissing,
        Self::TimeFinerThanMillis,
        Self::TooLarge,
    ];

    pub const fn name(self) -> &'static str {
        match self {
            Self::CutOff => "CutOff",
            Self::InvalidUtf8 => "InvalidUtf8",
            Self::DuplicateKey => "DuplicateKey",
            Self::TrailingText => "TrailingText",
            Self::NotAnObject => "NotAnObject",
            Self::NotANumber => "NotANumber",
            Self::QuantityIsText => "QuantityIsText",
            Self::StatusIsText => "StatusIsText",
            Self::UserIdHasFraction => "UserIdHasFraction",
            Self::UserIdTooLarge => "UserIdTooLarge",
            Self::PriceTooFine => "PriceTooFine",
            Self::ScoreWouldRound => "ScoreWouldRound",
            Self::TimeIsNoTime => "TimeIsNoTime",
            Self::TimeTooFine => "TimeTooFine",
            Self::TimeMissing => "TimeMissing",
            Self::IdMissing => "IdMissing",
            Self::TimeFinerThanMillis => "TimeFinerThanMillis",
            Self::TooLarge => "TooLarge",
        }
    }

    pub const fn shows(self) -> Shows {
        match self {
            Self::TimeFinerThanMillis | Self::TooLarge => Shows::AtRendering,
            Self::CutOff
            | Self::InvalidUtf8
            | Self::DuplicateKey
            | Self::TrailingText
            | Self::NotAnObject
            | Self::NotANumber
            | Self::QuantityIsText
            | Self::StatusIsText
            | Self::UserIdHasFraction
            | Self::UserIdTooLarge
            | Self::PriceTooFine
            | Self::ScoreWouldRound
            | Self::TimeIsNoTime
            | Self::TimeTooFine
            | Self::TimeMissing
            | Self::IdMissing => Shows::AtDecoding,
        }
    }

    /// Whether such a row counts against the limit of its slice and event type, which are known. Those lie in the peak, where
    /// one of them is a small share.
    pub const fn counts_in_slice(self) -> bool {
        matches!(self, Self::IdMissing | Self::TimeFinerThanMillis | Self::TooLarge)
    }
}
