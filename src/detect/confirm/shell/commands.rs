//! Commands that an injected line would start, by how they read in prose. Sorted, for binary search.

/// How much a command's name says by itself.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Rank {
    /// Hardly ever a word of a sentence.
    Tool,
    /// Also a word, an abbreviation or a field name.
    Word,
}

/// The rank of a command called `name` (lower case, no directory).
pub(crate) fn rank(name: &[u8]) -> Option<Rank> {
    // A name of one or two letters may go on with the ending of a program of Windows.
    if let [one, two, three, ..] = name
        && *two != b'.'
        && *three != b'.'
        && !may_begin(*one, *two, *three)
    {
        return None;
    }
    let known = |list: &[&str], initials: &[Initial; 128]| {
        let initial = name.first().and_then(|first| initials.get(usize::from(*first)));
        let alike = initial.and_then(|initial| list.get(initial.first..initial.end)).unwrap_or_default();
        alike.binary_search_by(|entry| entry.as_bytes().cmp(name)).is_ok()
    };
    let plain = name.strip_suffix(b".exe").unwrap_or(name);
    if known(TOOLS, &TOOLS_BY_INITIAL) {
        Some(Rank::Tool)
    } else if known(WORDS, &WORDS_BY_INITIAL) || plain.len() < name.len() && rank(plain).is_some() {
        Some(Rank::Word)
    } else {
        None
    }
}

/// The names of a list that begin with a byte.
#[derive(Clone, Copy)]
struct Initial {
    first: usize,
    end: usize,
}

static TOOLS_BY_INITIAL: [Initial; 128] = by_initial(TOOLS);
static WORDS_BY_INITIAL: [Initial; 128] = by_initial(WORDS);

#[expect(clippy::indexing_slicing, reason = "evaluated at compile time, where an index out of bounds is an error")]
const fn by_initial(list: &[&str]) -> [Initial; 128] {
    let mut initials = [Initial { first: 0, end: 0 }; 128];
    let mut index = 0;
    while index < list.len() {
        let initial = &mut initials[list[index].as_bytes()[0] as usize];
        if initial.end == 0 {
            initial.first = index;
        }
        initial.end = index + 1;
        index += 1;
    }
    initials
}

/// What may stand before a command, and directories of programs: sorted as the names are.
pub(crate) const PREFIXES: &[&str] = &[
    "builtin", "call", "command", "do", "doas", "else", "env", "eval", "exec", "nice", "nohup", "setsid", "start",
    "sudo", "then", "time", "xargs",
];
/// Directories of programs that are written without a slash in front.
const DIRECTORIES: &[&str] = &["bin/", "usr/bin/"];

/// Longest name, the ending of a program of Windows included.
const NAME_MAX: usize = 24;
/// Letters that tell names apart.
const LETTERS: usize = 3;
/// A bit for each three letters that a name begins with.
static BEGINNINGS: [u32; 1024] = letters(0);
/// A bit for the next three of each name that has so many.
static CONTINUATIONS: [u32; 1024] = letters(LETTERS);

#[expect(clippy::indexing_slicing, reason = "evaluated at compile time, where an index out of bounds is an error")]
const fn letters(from: usize) -> [u32; 1024] {
    let lists = [TOOLS, WORDS, PREFIXES, DIRECTORIES];
    let mut set = [0; 1024];
    let mut list = 0;
    while list < lists.len() {
        let mut name = 0;
        while name < lists[list].len() {
            let bytes = lists[list][name].as_bytes();
            assert!(bytes.len() + ".exe".len() <= NAME_MAX, "a name is longer than the longest");
            if from + LETTERS <= bytes.len() {
                let pair = ((bytes[from] & 31) as usize) << 5 | (bytes[from + 1] & 31) as usize;
                set[pair] |= 1 << (bytes[from + 2] & 31);
            }
            name += 1;
        }
        list += 1;
    }
    set
}

/// What is known of a word by how it begins, while it is read: most words of a text are no command's name, and few
/// letters tell.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Beginning {
    /// Letters alone so far.
    Letters,
    /// A path, a pattern, or something else that is read to its end.
    Open,
}

impl Beginning {
    /// Of a word whose first two bytes these are: a backslash or a drive's letter before other things begins a path of
    /// Windows.
    pub(crate) fn of(first: &[u8]) -> Self {
        match first {
            [b'\\', b'\\'] | [_, b':'] | [b'%', ..] => Self::Open,
            _ => Self::Letters,
        }
    }

    /// True when no command, and nothing that stands before one, is called what begins with `word` (lower case).
    pub(crate) fn is_hopeless(&mut self, word: &[u8]) -> bool {
        let Some(last) = word.last().filter(|_| *self == Self::Letters) else { return false };
        if !last.is_ascii_alphanumeric() && !matches!(last, b'_' | b'-') {
            *self = Self::Open;
            return false;
        }
        match word {
            [one, two, three] => !may_begin(*one, *two, *three),
            [_, _, _, one, two, three] => !has_letters(&CONTINUATIONS, *one, *two, *three),
            _ => NAME_MAX < word.len(),
        }
    }
}

/// True when a name may begin with these three letters, whatever their case.
pub(crate) fn may_begin(one: u8, two: u8, three: u8) -> bool {
    has_letters(&BEGINNINGS, one, two, three)
}

fn has_letters(set: &[u32; 1024], one: u8, two: u8, three: u8) -> bool {
    let pair = usize::from(one & 31) << 5 | usize::from(two & 31);
    set.get(pair).is_some_and(|thirds| thirds >> (three & 31) & 1 == 1)
}

/// True when a pattern with `?` and `*` names a command.
pub(crate) fn glob_names_command(pattern: &[u8]) -> bool {
    TOOLS.iter().chain(WORDS).any(|name| glob_matches(pattern, name.as_bytes()))
}

/// Shell wildcards: `?` is one character, `*` any run. Both sides are short.
pub(crate) fn glob_matches(pattern: &[u8], name: &[u8]) -> bool {
    let (mut at, mut from) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while from < name.len() {
        match pattern.get(at) {
            Some(b'*') => {
                star = Some((at, from));
                at += 1;
            }
            Some(byte) if *byte == b'?' || name.get(from) == Some(byte) => {
                at += 1;
                from += 1;
            }
            _ => {
                let Some((back, taken)) = star else { return false };
                star = Some((back, taken + 1));
                at = back + 1;
                from = taken + 1;
            }
        }
    }
    pattern.get(at..).unwrap_or_default().iter().all(|byte| *byte == b'*')
}

/// True when the command does something worth running without any argument.
pub(crate) fn speaks_alone(name: &[u8]) -> bool {
    ALONE.iter().any(|entry| entry.as_bytes() == name)
}

/// Names that hardly occur in prose.
const TOOLS: &[&str] = &[
    "adduser",
    "apk",
    "apt-get",
    "attrib",
    "awk",
    "base32",
    "base64",
    "bash",
    "bash.exe",
    "bitsadmin",
    "busybox",
    "cacls",
    "certutil",
    "chattr",
    "chgrp",
    "chmod",
    "chown",
    "chroot",
    "cmd",
    "cmd.exe",
    "cmdkey",
    "command.com",
    "crontab",
    "cscript",
    "csh",
    "curl",
    "dash",
    "diskpart",
    "dmesg",
    "doas",
    "dpkg",
    "dscl",
    "fetch",
    "findstr",
    "forfiles",
    "gawk",
    "gcc",
    "get-childitem",
    "get-content",
    "get-process",
    "getent",
    "hexdump",
    "hostnamectl",
    "icacls",
    "iex",
    "ifconfig",
    "insmod",
    "installutil",
    "invoke-expression",
    "invoke-webrequest",
    "ipcalc",
    "ipconfig",
    "iptables",
    "iwconfig",
    "iwr",
    "journalctl",
    "kextstat",
    "killall",
    "klist",
    "ksh",
    "launchctl",
    "ldconfig",
    "lsattr",
    "lsmod",
    "lsof",
    "ltrace",
    "lwp-download",
    "lwp-request",
    "mawk",
    "mkfifo",
    "mknod",
    "modprobe",
    "msbuild",
    "mshta",
    "msiexec",
    "nc",
    "ncat",
    "netcat",
    "netsh",
    "netstat",
    "new-object",
    "nmap",
    "nodejs",
    "nslookup",
    "ntdsutil",
    "osascript",
    "pcalua",
    "perl5",
    "pgrep",
    "php5",
    "php7",
    "php8",
    "pkexec",
    "pkill",
    "powershell",
    "powershell.exe",
    "printenv",
    "pwsh",
    "python2",
    "python3",
    "quser",
    "qwinsta",
    "rcp",
    "regasm",
    "regsvr32",
    "rlogin",
    "robocopy",
    "rpm",
    "rsh",
    "ruby2",
    "rundll32",
    "runuser",
    "schtasks",
    "sed",
    "setsid",
    "socat",
    "ssh-keygen",
    "sshpass",
    "start-process",
    "stdbuf",
    "strace",
    "sudo",
    "sw_vers",
    "sysinfo",
    "systemctl",
    "systeminfo",
    "taskkill",
    "tasklist",
    "tcpdump",
    "tcsh",
    "telnet",
    "tftp",
    "traceroute",
    "tracert",
    "uname",
    "updatedb",
    "useradd",
    "usermod",
    "uudecode",
    "vssadmin",
    "wall",
    "wevtutil",
    "wget",
    "whereis",
    "whoami",
    "wmic",
    "wscript",
    "xargs",
    "xcopy",
    "xterm",
    "xxd",
    "yum",
    "zsh",
];

/// Names that are words as well.
const WORDS: &[&str] = &[
    "alias", "arp", "ash", "at", "blkid", "bzip2", "call", "cat", "cc", "cd", "column", "copy", "cp", "cut", "date",
    "dd", "declare", "del", "df", "dig", "dir", "du", "echo", "ed", "egrep", "emacs", "env", "erase", "eval", "exec",
    "exit", "export", "expr", "factor", "false", "fdisk", "fgrep", "file", "find", "finger", "fmt", "fold", "free",
    "ftp", "gdb", "grep", "groups", "gunzip", "gzip", "halt", "head", "history", "host", "hostname", "id", "init",
    "install", "ip", "join", "kill", "last", "less", "link", "ln", "locate", "login", "logname", "look", "ls", "lsblk",
    "lua", "mail", "make", "md", "mkdir", "more", "mount", "move", "mv", "nano", "net", "nice", "nl", "node", "nproc",
    "od", "openssl", "passwd", "paste", "perl", "php", "ping", "ping6", "printf", "ps", "pwd", "python", "query", "rd",
    "read", "readlink", "realpath", "reboot", "reg", "ren", "rev", "rm", "rmdir", "route", "rsync", "ruby", "sc",
    "scp", "sendmail", "seq", "service", "set", "sftp", "sh", "shutdown", "sleep", "sort", "source", "split", "ss",
    "ssh", "start", "stat", "strings", "su", "sync", "tac", "tail", "tar", "tclsh", "tee", "test", "time", "timeout",
    "top", "touch", "tr", "tree", "true", "type", "ulimit", "umask", "umount", "uniq", "unlink", "unset", "unzip",
    "uptime", "users", "ver", "vi", "vim", "vol", "w", "watch", "wc", "which", "who", "yes", "zgrep", "zip",
];

/// Commands of the second list that tell something without arguments.
const ALONE: &[&str] = &[
    "arp", "date", "df", "dir", "env", "groups", "halt", "history", "hostname", "id", "ip", "last", "ls", "mount",
    "net", "ps", "pwd", "reboot", "set", "sh", "shutdown", "uptime", "users", "ver", "w", "who",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_sorted_and_disjoint() {
        assert!(TOOLS.is_sorted_by(|a, b| a < b) && WORDS.is_sorted_by(|a, b| a < b));
        assert!(TOOLS.iter().all(|name| WORDS.binary_search(name).is_err()));
        assert!(ALONE.iter().all(|name| WORDS.binary_search(name).is_ok()));
    }

    #[test]
    fn no_known_name_is_hopeless_as_it_is_read() {
        let names = TOOLS.iter().chain(WORDS).chain(PREFIXES).chain(DIRECTORIES);
        for name in names.map(|name| name.to_string()).chain(WORDS.iter().map(|name| format!("{name}.exe"))) {
            let mut beginning = Beginning::of(&name.as_bytes()[..name.len().min(2)]);
            assert!((1..=name.len()).all(|end| !beginning.is_hopeless(&name.as_bytes()[..end])), "{name}");
            assert!(rank(name.as_bytes()).is_some() || PREFIXES.contains(&&*name) || name.ends_with('/'), "{name}");
        }
        assert!(Beginning::Letters.is_hopeless(b"xns") && !Beginning::Open.is_hopeless(b"xns"));
        assert_eq!(rank(b"xnsl"), None);
    }

    #[test]
    fn globs_match_like_a_shell() {
        for (pattern, name, expected) in [
            ("c?t", "cat", true),
            ("c*", "cat", true),
            ("?at", "at", false),
            ("*a*t*", "cat", true),
            ("ca", "cat", false),
        ] {
            assert_eq!(glob_matches(pattern.as_bytes(), name.as_bytes()), expected, "{pattern}");
        }
    }
}
