//! The figures of one run: printed as a table with ratios, written to target/bench.json.

use std::io::Write as _;

/// One measured row.
#[derive(Clone, Debug)]
pub struct Row {
    /// What was measured.
    pub what: String,
    /// On which input.
    pub input: String,
    /// CPU microseconds per request.
    pub us: f64,
    /// Requests per second, where a load was driven.
    pub rps: Option<f64>,
    /// Ratio to the row that the table compares with.
    pub ratio: Option<(f64, &'static str)>,
}

/// All rows, in order.
#[derive(Default)]
pub struct Report {
    rows: Vec<Row>,
    /// What is no CPU time: a sentence, and its figures by name.
    facts: Vec<(String, serde_json::Value)>,
}

impl Report {
    /// Adds a row.
    pub fn add(&mut self, row: Row) {
        eprintln!("  {:<44} {:<26} {:>12.2} us", row.what, row.input, row.us);
        self.rows.push(row);
    }

    /// CPU microseconds of a row.
    pub fn us(&self, what: &str, input: &str) -> Option<f64> {
        self.rows.iter().find(|row| row.what == what && row.input == input).map(|row| row.us)
    }

    /// Adds figures of another kind.
    pub fn fact(&mut self, text: String, figures: serde_json::Value) {
        eprintln!("  {text}");
        self.facts.push((text, figures));
    }

    /// Prints the table and writes the file.
    pub fn finish(&self) -> Result<(), Box<dyn std::error::Error>> {
        let mut out = std::io::stdout().lock();
        writeln!(out, "\n{:<44} {:<26} {:>12} {:>10}  ratio", "what", "input", "CPU us", "req/s")?;
        for row in &self.rows {
            let rps = row.rps.map_or_else(String::new, |rps| format!("{rps:.0}"));
            let ratio = row.ratio.map_or_else(String::new, |(ratio, to)| format!("{ratio:.2} x {to}"));
            writeln!(out, "{:<44} {:<26} {:>12.2} {:>10}  {}", row.what, row.input, row.us, rps, ratio)?;
        }
        for (text, _) in &self.facts {
            writeln!(out, "{text}")?;
        }
        let mut rows: Vec<serde_json::Value> = self
            .rows
            .iter()
            .map(|row| {
                serde_json::json!({
                    "what": row.what, "input": row.input, "cpu_us": row.us, "rps": row.rps,
                    "ratio": row.ratio.map(|(ratio, _)| ratio), "ratio_to": row.ratio.map(|(_, to)| to),
                })
            })
            .collect();
        rows.extend(self.facts.iter().map(|(_, figures)| figures.clone()));
        std::fs::write("target/bench.json", serde_json::to_string_pretty(&rows)?)?;
        Ok(())
    }
}
