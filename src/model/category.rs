//! Attack categories: guard-core's names, as small numbers and bit sets.

use std::fmt;

/// Every name a detection can carry. The first 19 are guard-core's categories; the rest are its other buckets.
const NAMES: [&str; 22] = [
    "xss",
    "sqli",
    "dir_traversal",
    "path_traversal",
    "cmd_injection",
    "file_inclusion",
    "ldap",
    "xml",
    "ssrf",
    "nosql",
    "file_upload",
    "template",
    "http_split",
    "sensitive_file",
    "cms_probing",
    "recon",
    "proto_pollution",
    "code_injection",
    "deserialization",
    "custom",
    "rate_limit",
    "uncategorized",
];

/// One category. Adding one is adding its name to the table and a file to `patterns/`.
#[derive(Clone, Copy, Eq, PartialEq, Hash, Ord, PartialOrd)]
pub struct Category(u8);

impl Category {
    /// Cross-site scripting.
    pub const XSS: Self = Self(0);
    /// SQL injection.
    pub const SQLI: Self = Self(1);
    /// Traversal by repeated dot-dot units.
    pub const DIR_TRAVERSAL: Self = Self(2);
    /// Encoded or computed traversal.
    pub const PATH_TRAVERSAL: Self = Self(3);
    /// Shell and code command injection.
    pub const CMD_INJECTION: Self = Self(4);
    /// Local and remote file inclusion.
    pub const FILE_INCLUSION: Self = Self(5);
    /// LDAP filter injection.
    pub const LDAP: Self = Self(6);
    /// XML external entities and friends.
    pub const XML: Self = Self(7);
    /// Server-side request forgery.
    pub const SSRF: Self = Self(8);
    /// NoSQL operator injection.
    pub const NOSQL: Self = Self(9);
    /// Dangerous upload names.
    pub const FILE_UPLOAD: Self = Self(10);
    /// Server-side template injection.
    pub const TEMPLATE: Self = Self(11);
    /// Response splitting.
    pub const HTTP_SPLIT: Self = Self(12);
    /// Probing for sensitive files.
    pub const SENSITIVE_FILE: Self = Self(13);
    /// Probing for content management systems.
    pub const CMS_PROBING: Self = Self(14);
    /// Reconnaissance.
    pub const RECON: Self = Self(15);
    /// Prototype pollution.
    pub const PROTO_POLLUTION: Self = Self(16);
    /// Code injection outside the shell.
    pub const CODE_INJECTION: Self = Self(17);
    /// Unsafe deserialisation.
    pub const DESERIALIZATION: Self = Self(18);
    /// Custom patterns and spent budgets.
    pub const CUSTOM: Self = Self(19);
    /// Refusals of the rate limiter, when they count towards a ban.
    pub const RATE_LIMIT: Self = Self(20);
    /// A threat without a category.
    pub const UNCATEGORIZED: Self = Self(21);

    /// How many names there are in all.
    pub const COUNT: usize = NAMES.len();
    /// The categories that `enabled_detection_categories` may name.
    pub const DETECTION_COUNT: usize = 19;

    /// The category called `name`, pseudo-categories included.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        let index = NAMES.iter().position(|known| *known == name)?;
        u8::try_from(index).ok().map(Self)
    }

    /// The category called `name` if a user may switch it on and off.
    #[must_use]
    pub fn detection(name: &str) -> Option<Self> {
        Self::named(name).filter(|category| category.index() < Self::DETECTION_COUNT)
    }

    /// The category at a position of the table.
    #[must_use]
    pub fn at(index: usize) -> Option<Self> {
        u8::try_from(index).ok().filter(|index| usize::from(*index) < Self::COUNT).map(Self)
    }

    /// All detection categories, in table order.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..Self::DETECTION_COUNT as u8).map(Self)
    }

    /// The name used in configuration, logs, metrics and Redis.
    #[must_use]
    pub fn name(self) -> &'static str {
        NAMES.get(self.index()).copied().unwrap_or("uncategorized")
    }

    /// The position in the table, for arrays by category.
    #[must_use]
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

impl fmt::Debug for Category {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl fmt::Display for Category {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl serde::Serialize for Category {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

/// A set of categories.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Hash)]
pub struct CategorySet(u32);

impl CategorySet {
    /// No category.
    pub const EMPTY: Self = Self(0);
    /// The 19 detection categories.
    pub const DETECTION: Self = Self((1 << Category::DETECTION_COUNT) - 1);

    /// True when `category` is in the set.
    #[must_use]
    pub const fn contains(self, category: Category) -> bool {
        self.0 & (1 << category.0) != 0
    }

    /// The set with `category` added.
    #[must_use]
    pub const fn with(self, category: Category) -> Self {
        Self(self.0 | (1 << category.0))
    }

    /// The set with `category` taken out.
    #[must_use]
    pub const fn without(self, category: Category) -> Self {
        Self(self.0 & !(1 << category.0))
    }

    /// True when nothing is in the set.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The members in table order.
    pub fn iter(self) -> impl Iterator<Item = Category> {
        (0..NAMES.len() as u8).map(Category).filter(move |category| self.contains(*category))
    }
}

impl FromIterator<Category> for CategorySet {
    fn from_iter<I: IntoIterator<Item = Category>>(members: I) -> Self {
        members.into_iter().fold(Self::EMPTY, Self::with)
    }
}
