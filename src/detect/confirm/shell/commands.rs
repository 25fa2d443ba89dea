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
    let known = |list: &[&str]| list.binary_search_by(|entry| entry.as_bytes().cmp(name)).is_ok();
    let plain = name.strip_suffix(b".exe").unwrap_or(name);
    if known(TOOLS) {
        Some(Rank::Tool)
    } else if known(WORDS) || plain.len() < name.len() && rank(plain).is_some() {
        Some(Rank::Word)
    } else {
        None
    }
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
