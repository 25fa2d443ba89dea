//! The one door to Hyperscan: expressions become a database, a text becomes the set of expressions found in it.
//!
//! A scan allocates nothing. Each thread keeps one scratch space per database it used last, and one set of hits.

use std::cell::RefCell;
use std::sync::atomic::{AtomicU64, Ordering};

use hyperscan::prelude::{BlockDatabase, Builder, Matching, Pattern, Patterns, Scratch};
use hyperscan::{CpuFeatures, HsError, PatternFlags, Platform, SerializedDatabase, Tune};
use smallvec::SmallVec;

use crate::detect::cache::{DatabaseCache, Key, seal, unseal};
use crate::detect::rows::{Expression, ROWS_MAX};

/// Words of a set of expressions.
const WORDS: usize = ROWS_MAX / 64;
/// Scratch spaces one thread keeps: the databases of two generations, and some for tests.
const SCRATCHES_MAX: usize = 16;

/// The expressions found in one text, ascending, each with where its first match ends; more than these spill to the heap.
pub(crate) type Candidates = SmallVec<[(u16, u32); 16]>;

/// A set of expression numbers.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Bits([u64; WORDS]);

impl Bits {
    /// Adds a number; one that is out of range is dropped.
    pub(crate) fn insert(&mut self, id: usize) {
        if let Some(word) = self.0.get_mut(id / 64) {
            *word |= 1 << (id % 64);
        }
    }

    /// True when the number is in the set.
    pub(crate) fn contains(&self, id: usize) -> bool {
        self.0.get(id / 64).is_some_and(|word| word & (1 << (id % 64)) != 0)
    }

    /// True when nothing is in the set.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.iter().all(|word| *word == 0)
    }

    /// What is in both sets.
    pub(crate) fn and(&self, other: &Self) -> Self {
        let mut both = *self;
        both.0.iter_mut().zip(other.0).for_each(|(word, other)| *word &= other);
        both
    }

    /// What is in either set.
    pub(crate) fn or(&self, other: &Self) -> Self {
        let mut either = *self;
        either.0.iter_mut().zip(other.0).for_each(|(word, other)| *word |= other);
        either
    }

    /// The members, ascending.
    pub(crate) fn iter(&self) -> impl Iterator<Item = usize> + '_ {
        self.0.iter().enumerate().flat_map(|(index, word)| {
            let mut rest = *word;
            std::iter::from_fn(move || {
                let bit = (rest != 0).then(|| rest.trailing_zeros() as usize)?;
                rest &= rest - 1;
                Some(index * 64 + bit)
            })
        })
    }
}

impl FromIterator<usize> for Bits {
    fn from_iter<I: IntoIterator<Item = usize>>(members: I) -> Self {
        let mut bits = Self::default();
        members.into_iter().for_each(|id| bits.insert(id));
        bits
    }
}

/// What one scan found.
#[derive(Debug)]
pub(crate) struct Hits {
    /// The expressions that matched.
    pub(crate) bits: Bits,
    ends: [u32; ROWS_MAX],
}

impl Hits {
    /// Where the first reported match of an expression ends, in bytes.
    pub(crate) fn end(&self, id: usize) -> usize {
        self.ends.get(id).map_or(0, |end| *end as usize)
    }

    fn record(&mut self, id: usize, end: u64) {
        if !self.bits.contains(id) {
            self.bits.insert(id);
            if let Some(slot) = self.ends.get_mut(id) {
                *slot = u32::try_from(end).unwrap_or(u32::MAX);
            }
        }
    }
}

/// Why expressions did not compile.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{message}")]
pub(crate) struct CompileError {
    /// Position of the faulty expression, when it is known.
    pub(crate) expression: Option<usize>,
    /// Hyperscan's words, offset included.
    pub(crate) message: String,
}

/// A compiled set of expressions. Immutable; shared by all threads.
pub(crate) struct Automaton {
    database: Option<BlockDatabase>,
    generation: u64,
    width_min: usize,
}

impl std::fmt::Debug for Automaton {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Automaton").field("generation", &self.generation).field("width_min", &self.width_min).finish()
    }
}

/// The machine that databases are compiled for: generic code of this architecture.
const MACHINE: &str = if cfg!(target_arch = "x86_64") {
    "x86_64"
} else if cfg!(target_arch = "aarch64") {
    "aarch64"
} else {
    "other"
};

/// Hyperscan's version and the date it was built.
fn library() -> String {
    hyperscan::version_str().to_string_lossy().into_owned()
}

/// Stack of a thread that compiles: the compiler calls itself for each level of an expression.
const STACK_BYTES: usize = 16 << 20;

/// What went wrong around compiling.
fn failure(message: &str) -> CompileError {
    CompileError { expression: None, message: message.to_owned() }
}

/// Numbers the databases of this process, so that a thread can tell whose scratch space it holds.
static GENERATION: AtomicU64 = AtomicU64::new(1);

impl Automaton {
    /// Compiles `expressions`; an empty list makes an automaton that finds nothing.
    pub(crate) fn compile(expressions: &[Expression<'_>]) -> Result<Self, CompileError> {
        if ROWS_MAX < expressions.len() {
            let message = format!("{} expressions; at most {ROWS_MAX} fit", expressions.len());
            return Err(CompileError { expression: None, message });
        }
        let patterns: Vec<Pattern> = expressions.iter().map(pattern).collect();
        let width_min = width_min(&patterns)?;
        let database = if patterns.is_empty() {
            None
        } else {
            // Generic code is as fast as code for this CPU, and its serialised form fits every CPU.
            let platform = Platform::new(Tune::Generic, CpuFeatures::empty());
            Some(Patterns(patterns).for_platform(Some(&platform)).map_err(compile_error)?)
        };
        Ok(Self::new(database, width_min))
    }

    /// As [`Automaton::compile`], or what `cache` kept of the same expressions, which takes a thousandth of the time.
    pub(crate) fn compile_or_restore(
        expressions: &[Expression<'_>],
        cache: &dyn DatabaseCache,
    ) -> Result<Self, CompileError> {
        if let Some(automaton) = Self::restored(expressions, cache) {
            return Ok(automaton);
        }
        let automaton = Self::compile(expressions)?;
        automaton.keep(expressions, cache);
        Ok(automaton)
    }

    /// [`Automaton::compile_or_restore`] of each set. What has to be compiled is compiled at the same time, a thread for
    /// each set: the slowest one takes seconds.
    pub(crate) fn compile_all(
        sets: &[Vec<Expression<'_>>],
        cache: &dyn DatabaseCache,
    ) -> Result<Vec<Self>, CompileError> {
        let restored: Vec<Option<Self>> = sets.iter().map(|set| Self::restored(set, cache)).collect();
        let compiled = std::thread::scope(|scope| {
            let builder = || std::thread::Builder::new().stack_size(STACK_BYTES);
            #[expect(clippy::needless_collect, reason = "all threads run before the first is waited for")]
            let running: Vec<_> = sets
                .iter()
                .zip(&restored)
                .map(|(set, restored)| match restored {
                    Some(_) => Ok(None),
                    None => builder().spawn_scoped(scope, || Self::compile(set)).map(Some),
                })
                .collect();
            let ended = running.into_iter().map(|compiling| match compiling {
                Ok(None) => Ok(None),
                Ok(Some(compiling)) => {
                    compiling.join().unwrap_or_else(|_| Err(failure("compiling panicked"))).map(Some)
                }
                Err(error) => Err(failure(&error.to_string())),
            });
            ended.collect::<Result<Vec<_>, CompileError>>()
        })?;
        for (set, compiled) in sets.iter().zip(&compiled) {
            compiled.iter().for_each(|compiled| compiled.keep(set, cache));
        }
        Ok(restored.into_iter().zip(compiled).filter_map(|(restored, compiled)| restored.or(compiled)).collect())
    }

    /// What `cache` kept of the same expressions, if it can be believed.
    fn restored(expressions: &[Expression<'_>], cache: &dyn DatabaseCache) -> Option<Self> {
        let key = Key::of(&library(), MACHINE, expressions);
        let name = key.name();
        let kept = cache.read(&name)?;
        Self::restore(&key, &kept).map_err(|why| cache.reject(&name, &why)).ok()
    }

    fn keep(&self, expressions: &[Expression<'_>], cache: &dyn DatabaseCache) {
        if let Some(database) = &self.database
            && let Ok(bytes) = database.serialize()
        {
            let key = Key::of(&library(), MACHINE, expressions);
            cache.write(&key.name(), &seal(&key, self.width_min, &bytes));
        }
    }

    /// What [`Automaton::compile_or_restore`] kept. The library checks version, machine and a checksum of its own, but
    /// not the mode, so that is read before.
    fn restore(key: &Key, kept: &[u8]) -> Result<Self, String> {
        let (width_min, bytes) = unseal(key, kept).map_err(str::to_owned)?;
        let info = bytes.info().map_err(|error| error.to_string())?;
        let version = library();
        let version = version.split(' ').next().unwrap_or_default();
        if !info.contains("Mode: BLOCK") || !info.contains(&format!("Version: {version} ")) {
            return Err(format!("is no block database of Hyperscan {version}: {info}"));
        }
        let database: BlockDatabase = bytes.deserialize().map_err(|error| error.to_string())?;
        database.alloc_scratch().map_err(|error| error.to_string())?;
        Ok(Self::new(Some(database), width_min))
    }

    /// Tries one expression alone.
    pub(crate) fn test_compile(expression: &Expression<'_>) -> Result<(), CompileError> {
        Self::compile(std::slice::from_ref(expression)).map(|_| ())
    }

    fn new(database: Option<BlockDatabase>, width_min: usize) -> Self {
        Self { database, generation: GENERATION.fetch_add(1, Ordering::Relaxed), width_min }
    }

    /// Size of the database in bytes.
    pub(crate) fn size(&self) -> usize {
        self.database.as_ref().and_then(|database| database.size().ok()).unwrap_or(0)
    }

    /// Finds the expressions that occur in `text` and gives them to `found`, which must not scan itself. `None` when
    /// none occurs.
    pub(crate) fn scan<R>(&self, text: &[u8], found: impl FnOnce(&Hits) -> R) -> Option<R> {
        self.with_scratch(text, |database, scratch, hits| {
            // The callback runs below C frames: it must not panic, and only sets bits.
            let end = database.scan(text, scratch, |id: u32, _from: u64, to: u64, _flags: u32| {
                hits.record(id as usize, to);
                Matching::Continue
            });
            // Nothing else can fail: the text is shorter than 4 GiB and the scratch space belongs to the database.
            debug_assert!(end.is_ok());
            (!hits.bits.is_empty()).then(|| found(hits))
        })?
    }

    /// The expressions that occur in `text`, which must be UTF-8 when one of them is, each with where its matches end:
    /// of those in one stretch of `stride` bytes the first one, and at most `most` in all.
    pub(crate) fn finds(&self, text: &[u8], stride: u32, most: usize) -> Vec<(u16, u32)> {
        let (mut finds, stride) = (Vec::new(), stride.max(1));
        self.each(
            text,
            |end| end / stride,
            |number, end, _| {
                if finds.len() < most {
                    finds.push((number, end));
                }
            },
        );
        finds
    }

    /// Gives `found` each expression that occurs in `text`, where its match ends and in which part: of the matches in one
    /// part, as `part_of` tells by where they end, hardly more than the first. Neither may panic.
    pub(crate) fn each(&self, text: &[u8], part_of: impl Fn(u32) -> u32, mut found: impl FnMut(u16, u32, u32)) {
        self.with_scratch(text, |database, scratch, hits| {
            // As in a scan: nothing below may panic.
            let end = database.scan(text, scratch, |id: u32, _from: u64, to: u64, _flags: u32| {
                let (id, end) = (id as usize, u32::try_from(to).unwrap_or(u32::MAX));
                let part = part_of(end);
                if let (Some(last), Ok(number)) = (hits.ends.get_mut(id), u16::try_from(id))
                    && (!hits.bits.contains(id) || *last != part)
                {
                    *last = part;
                    hits.bits.insert(id);
                    found(number, end, part);
                }
                Matching::Continue
            });
            debug_assert!(end.is_ok());
        });
    }

    /// Runs `scan` with what this thread keeps for this database. `None` when `text` is too short for any expression.
    fn with_scratch<R>(&self, text: &[u8], scan: impl FnOnce(&BlockDatabase, &Scratch, &mut Hits) -> R) -> Option<R> {
        let database = self.database.as_ref().filter(|_| self.width_min <= text.len())?;
        THREAD.with_borrow_mut(|thread| {
            let Thread { scratches, next, hits } = thread;
            let scratch = match scratches.iter().position(|(generation, _)| *generation == self.generation) {
                Some(index) => scratches.get(index),
                None => {
                    let entry = (self.generation, database.alloc_scratch().ok()?);
                    place(scratches, next, entry)
                }
            };
            let (_, scratch) = scratch?;
            hits.bits = Bits::default();
            Some(scan(database, scratch, hits))
        })
    }
}

struct Thread {
    scratches: Vec<(u64, Scratch)>,
    next: usize,
    hits: Box<Hits>,
}

thread_local! {
    static THREAD: RefCell<Thread> = RefCell::new(Thread {
        scratches: Vec::with_capacity(SCRATCHES_MAX),
        next: 0,
        hits: Box::new(Hits { bits: Bits::default(), ends: [0; ROWS_MAX] }),
    });
}

/// Keeps `entry`, in place of the oldest when all places are taken.
fn place<'a>(
    scratches: &'a mut Vec<(u64, Scratch)>,
    next: &mut usize,
    entry: (u64, Scratch),
) -> Option<&'a (u64, Scratch)> {
    let index = *next % SCRATCHES_MAX;
    *next = index + 1;
    match scratches.get_mut(index) {
        Some(slot) => *slot = entry,
        None => scratches.push(entry),
    }
    scratches.get(index)
}

fn pattern(expression: &Expression<'_>) -> Pattern {
    // One match says that a row may apply. Something that finds too much is asked for every match, and so are texts that
    // stand side by side.
    let asks_each = expression.prefilter || expression.each;
    let mut flags = if asks_each { PatternFlags::empty() } else { PatternFlags::SINGLEMATCH };
    flags.set(PatternFlags::UTF8, expression.flags.utf8);
    flags.set(PatternFlags::CASELESS, !expression.flags.case_sensitive);
    flags.set(PatternFlags::MULTILINE, expression.flags.multiline);
    flags.set(PatternFlags::DOTALL, expression.flags.dotall);
    flags.set(PatternFlags::PREFILTER, expression.prefilter);
    Pattern {
        expression: expression.pattern.to_owned(),
        flags,
        id: Some(expression.id),
        ext: Default::default(),
        som: None,
    }
}

/// The length below which no expression can match.
fn width_min(patterns: &[Pattern]) -> Result<usize, CompileError> {
    let mut least = usize::MAX;
    for (index, pattern) in patterns.iter().enumerate() {
        let info = pattern.info().map_err(|error| CompileError { expression: Some(index), ..compile_error(error) })?;
        if info.min_width() == 0 {
            let message = "matches the empty text".to_owned();
            return Err(CompileError { expression: Some(index), message });
        }
        least = least.min(info.min_width());
    }
    Ok(least)
}

fn compile_error(error: hyperscan::Error) -> CompileError {
    match error {
        hyperscan::Error::Hyperscan(HsError::CompileError(error)) => {
            CompileError { expression: error.expression(), message: error.message().to_owned() }
        }
        other => CompileError { expression: None, message: other.to_string() },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::detect::rows::Flags;

    fn plain(id: usize, pattern: &str) -> Expression<'_> {
        Expression { id, pattern, flags: Flags::default(), prefilter: false, each: false }
    }

    #[test]
    fn a_scan_reports_ids_and_first_ends() {
        let automaton = Automaton::compile(&[plain(0, "abc"), plain(1, r"x\d+y"), plain(2, "^q")]).unwrap();
        let found =
            automaton.scan(b"..ABC x12y abc", |hits| (hits.bits.iter().collect::<Vec<_>>(), hits.end(0), hits.end(1)));
        assert_eq!(found, Some((vec![0, 1], 5, 10)));
        assert_eq!(automaton.scan(b"nothing", |_| ()), None);
        assert_eq!(automaton.scan(b"", |_| ()), None);
    }

    #[test]
    fn faults_name_the_expression_and_the_offset() {
        let error = Automaton::compile(&[plain(0, "ok"), plain(1, "a(b")]).unwrap_err();
        assert_eq!(error.expression, Some(1));
        assert!(error.message.contains("index"), "{}", error.message);
        assert_eq!(Automaton::compile(&[plain(0, "a*")]).unwrap_err().message, "matches the empty text");
        assert!(Automaton::test_compile(&plain(0, "(?=a)b")).is_err());
        assert!(Automaton::test_compile(&Expression { prefilter: true, ..plain(0, "(?=a)b") }).is_ok());
    }

    #[test]
    fn a_thread_serves_more_databases_than_it_keeps_scratch_for() {
        let texts: Vec<String> = (0..2 * SCRATCHES_MAX).map(|index| format!("needle{index:03}")).collect();
        let automata: Vec<Automaton> =
            texts.iter().map(|text| Automaton::compile(&[plain(0, text)]).unwrap()).collect();
        for _ in 0..3 {
            for (automaton, text) in automata.iter().zip(&texts) {
                assert_eq!(automaton.scan(text.as_bytes(), |hits| hits.end(0)), Some(text.len()));
            }
        }
    }

    /// Keeps one thing, whatever its name.
    #[derive(Default)]
    struct Kept {
        bytes: RefCell<Option<Vec<u8>>>,
        said: RefCell<Vec<String>>,
    }

    impl DatabaseCache for Kept {
        fn read(&self, _: &str) -> Option<Vec<u8>> {
            self.bytes.borrow().clone()
        }

        fn write(&self, _: &str, bytes: &[u8]) {
            self.said.borrow_mut().push("written".to_owned());
            *self.bytes.borrow_mut() = Some(bytes.to_vec());
        }

        fn reject(&self, _: &str, why: &str) {
            self.said.borrow_mut().push(why.to_owned());
        }
    }

    #[test]
    fn a_kept_database_finds_what_the_compiled_one_finds() {
        let expressions = [plain(0, "abc"), plain(7, r"x\d+y")];
        let kept = Kept::default();
        for run in 0..2 {
            let automaton = Automaton::compile_or_restore(&expressions, &kept).unwrap();
            assert_eq!(kept.said.borrow().len(), 1, "run {run}: written once, then believed");
            assert_eq!(automaton.width_min, 3);
            let found = automaton.scan(b"..ABC x12y", |hits| hits.bits.iter().collect::<Vec<_>>());
            assert_eq!(found, Some(vec![0, 7]));
            assert_eq!(automaton.scan(b"ab", |_| ()), None);
        }
    }

    #[test]
    fn a_database_that_cannot_be_believed_is_built_anew() {
        use hyperscan::StreamingDatabase;
        let expressions = [plain(0, "abc")];
        let key = Key::of(&library(), MACHINE, &expressions);
        let streaming: StreamingDatabase = pattern(&expressions[0]).build().unwrap();
        let stream = seal(&key, 3, &streaming.serialize().unwrap());
        let nonsense = seal(&key, 3, &[7; 4096]);
        for (name, bytes) in [("another mode", stream), ("a sealed nonsense", nonsense), ("nothing", Vec::new())] {
            let kept = Kept { bytes: RefCell::new(Some(bytes)), ..Kept::default() };
            let automaton = Automaton::compile_or_restore(&expressions, &kept).unwrap();
            assert_eq!(automaton.scan(b"abc", |_| ()), Some(()), "{name}");
            assert_eq!(kept.said.borrow().len(), 2, "{name}: {:?}", kept.said.borrow());
            assert_eq!(kept.said.borrow()[1], "written", "{name}");
        }
    }

    #[test]
    fn bits_are_a_set() {
        let bits: Bits = [0, 63, 64, 1023, 5000].into_iter().collect();
        assert_eq!(bits.iter().collect::<Vec<_>>(), [0, 63, 64, 1023]);
        let odd: Bits = (0..ROWS_MAX).filter(|id| id % 2 == 1).collect();
        assert_eq!(bits.and(&odd).iter().collect::<Vec<_>>(), [63, 1023]);
        assert!(bits.or(&odd).contains(64) && Bits::default().is_empty());
    }
}
