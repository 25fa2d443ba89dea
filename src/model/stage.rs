//! The parts of one detection, by name.

use std::fmt;

use crate::model::check::names;

names! {
    /// Where the time of a detection goes.
    Stage {
        /// Taking a request apart: query, headers, body formats.
        Extract = "extract",
        /// Decoding values into views.
        Views = "views",
        /// Looking for candidates.
        Scan = "scan",
        /// Second looks at candidates, custom patterns included.
        Confirm = "confirm",
        /// The semantic analyser.
        Semantic = "semantic",
    }
}
