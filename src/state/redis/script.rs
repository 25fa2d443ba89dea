//! The Lua scripts: each is one atomic step on the keys it names.

use std::sync::LazyLock;

use deadpool_redis::redis::{Cmd, cmd};

/// A script with the name under which the server remembers it.
pub(super) struct Script {
    text: &'static str,
    sha: LazyLock<String>,
}

impl Script {
    /// The call by name.
    pub(super) fn by_name(&self, keys: &[String], arguments: &[String]) -> Cmd {
        call("EVALSHA", &self.sha, keys, arguments)
    }

    /// The call by text, after which the server knows the name.
    pub(super) fn by_text(&self, keys: &[String], arguments: &[String]) -> Cmd {
        call("EVAL", self.text, keys, arguments)
    }
}

fn call(verb: &str, script: &str, keys: &[String], arguments: &[String]) -> Cmd {
    let mut call = cmd(verb);
    call.arg(script).arg(keys.len()).arg(keys).arg(arguments);
    call
}

macro_rules! script {
    ($(#[$doc:meta])* $name:ident = $text:literal) => {
        $(#[$doc])*
        pub(super) static $name: Script = Script {
            text: $text,
            sha: LazyLock::new(|| deadpool_redis::redis::Script::new($text).get_hash().to_owned()),
        };
    };
}

script! {
    /// The questions of one request. Numbers go to Redis as text that we made ourselves or with 17 digits, because
    /// servers up to 7.0 would round them.
    ///
    /// Keys: the ban when argument 2 is `1`, then one for each bucket, then one for each rule, then one for each watch.
    /// Arguments: now; whether to
    /// look up the ban; whether to go on whatever happens; the number of limits; the number of buckets; the number of
    /// watches; then for each limit its bucket's number, the limit, its window, and the longest window asked about in that bucket; then for each
    /// rule its limit, its window, its mode (`a` refuses, `s` does not, `p` counts nothing new), and the number of hits
    /// that were admitted before and are recorded now, followed by their moments; then for each watch its window, the
    /// longest window asked about in its history, and the member to add or nothing.
    /// Returns: the ban's expiry or nil; the members added, one for each bucket hit; the counts; for each rule its count,
    /// whether it is exceeded, seconds until room is made, and the member added or nothing; the counts of the watches.
    ASK = r"
local now, at, onward = ARGV[1], tonumber(ARGV[1]), ARGV[3] == '1'
local function exact(number) return string.format('%.17g', number) end
local function record(key, moment)
  local member = moment
  if redis.call('ZADD', key, 'NX', member, member) == 0 then
    local at = tonumber(moment)
    local _, exponent = math.frexp(at)
    local tick, step = math.ldexp(1, exponent - 53), redis.call('ZCARD', key)
    repeat
      member = exact(at + step * tick)
      if not string.find(member, '[.e]') then member = member .. '.0' end
      step = step + 1
    until redis.call('ZADD', key, 'NX', member, member) == 1
  end
  return member
end
local first, ban = 0, false
if ARGV[2] == '1' then
  first = 1
  local till = redis.call('GET', KEYS[1])
  if till and till ~= '' then
    local moment = tonumber(till)
    if not moment then return redis.error_reply('CORRUPT a ban without a moment') end
    if at <= moment then ban = till else redis.call('DEL', KEYS[1]) end
  end
end
local members, counts = {}, {}
if ban and not onward then return {ban, members, counts, {}, {}} end
local hit, last = {}, 6 + 4 * tonumber(ARGV[4])
local watches = #ARGV - 3 * tonumber(ARGV[6])
for i = 7, last, 4 do
  local key = KEYS[first + tonumber(ARGV[i])]
  local limit, window, longest = tonumber(ARGV[i + 1]), tonumber(ARGV[i + 2]), tonumber(ARGV[i + 3])
  if not hit[key] then
    hit[key] = true
    members[#members + 1] = record(key, now)
    local left = redis.call('TTL', key)
    redis.call('ZREMRANGEBYSCORE', key, '-inf', exact(at - math.max(longest, left / 2)))
    if left < 2 * longest then redis.call('EXPIRE', key, 2 * longest) end
  end
  local count = redis.call('ZCOUNT', key, '(' .. exact(at - window), '+inf')
  counts[#counts + 1] = count
  if limit < count and not onward then return {ban, members, counts, {}, {}} end
end
local rules, place, i, admits = {}, first + tonumber(ARGV[5]), last + 1, true
while i <= watches do
  place = place + 1
  local key, limit, window, mode = KEYS[place], tonumber(ARGV[i]), tonumber(ARGV[i + 1]), ARGV[i + 2]
  local settled = tonumber(ARGV[i + 3])
  redis.call('ZREMRANGEBYSCORE', key, '-inf', exact(at - window))
  for n = i + 4, i + 3 + settled do record(key, ARGV[n]) end
  local count = redis.call('ZCARD', key)
  if limit <= count and mode == 'a' and not onward then admits = false end
  rules[#rules + 1] = {key = key, window = window, mode = mode, settled = settled, count = count, over = limit <= count}
  i = i + 4 + settled
end
local standings = {}
for _, rule in ipairs(rules) do
  local member = ''
  if admits and not rule.over and rule.mode ~= 'p' then
    member = record(rule.key, now)
    rule.count = rule.count + 1
  end
  if member ~= '' or rule.settled > 0 then redis.call('EXPIRE', rule.key, rule.window + 1) end
  local oldest = redis.call('ZRANGE', rule.key, 0, 0, 'WITHSCORES')[2]
  local reset = rule.window
  if oldest then reset = math.max(0, tonumber(oldest) + rule.window - at) end
  for _, value in ipairs({rule.count, rule.over and 1 or 0, exact(reset), member}) do
    standings[#standings + 1] = tostring(value)
  end
end
local watched = {}
for i = watches + 1, admits and #ARGV or 0, 3 do
  place = place + 1
  local key, window, longest, member = KEYS[place], tonumber(ARGV[i]), tonumber(ARGV[i + 1]), ARGV[i + 2]
  if member ~= '' then
    redis.call('ZADD', key, now, member)
    local left = redis.call('TTL', key)
    redis.call('ZREMRANGEBYSCORE', key, '-inf', '(' .. exact(at - math.max(longest, left)))
    if left < longest then redis.call('EXPIRE', key, longest) end
  end
  watched[#watched + 1] = redis.call('ZCOUNT', key, exact(at - window), '+inf')
end
return {ban, members, counts, standings, watched}
"
}

script! {
    /// Bans. Keys: the ban; the suspicious counts to forget, if any. Arguments: the expiry, seconds, channel, message.
    BAN = r"
redis.call('SET', KEYS[1], ARGV[1], 'EX', ARGV[2])
if KEYS[2] then redis.call('DEL', KEYS[2]) end
redis.pcall('PUBLISH', ARGV[3], ARGV[4])
return 1
"
}

script! {
    /// Lifts a ban. Key: the ban. Arguments: now, channel, message. Returns 1 when it was in force.
    UNBAN = r"
local till = redis.call('GET', KEYS[1])
redis.call('DEL', KEYS[1])
redis.pcall('PUBLISH', ARGV[2], ARGV[3])
if till and tonumber(ARGV[1]) <= (tonumber(till) or -1) then return 1 end
return 0
"
}

script! {
    /// Counts suspicious categories. Key: the counts. Arguments: now, the moment they expire, seconds until then, then
    /// the categories. Returns the total, then the count of each.
    SUSPECT = r"
local till = redis.call('HGET', KEYS[1], 'until')
if till and (tonumber(till) or 0) < tonumber(ARGV[1]) then redis.call('DEL', KEYS[1]) end
local counts = {redis.call('HINCRBY', KEYS[1], 'total', #ARGV - 3)}
for i = 4, #ARGV do counts[#counts + 1] = redis.call('HINCRBY', KEYS[1], ARGV[i], 1) end
redis.call('HSET', KEYS[1], 'until', ARGV[2])
redis.call('EXPIRE', KEYS[1], ARGV[3])
return counts
"
}

script! {
    /// Records a behaviour event. Key: the history. Arguments: now, window, member. Returns the count in the window.
    OBSERVE = r"
local at, window = tonumber(ARGV[1]), tonumber(ARGV[2])
local function exact(number) return string.format('%.17g', number) end
redis.call('ZADD', KEYS[1], ARGV[1], ARGV[3])
local left = redis.call('TTL', KEYS[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', '(' .. exact(at - math.max(window, left)))
if left < window then redis.call('EXPIRE', KEYS[1], window) end
return redis.call('ZCOUNT', KEYS[1], exact(at - window), '+inf')
"
}

script! {
    /// Adds one and sets the expiry, in one step. Key: the number. Argument: seconds, or 0 for none.
    INCREMENT = r"
local number = redis.call('INCRBY', KEYS[1], 1)
if ARGV[1] ~= '0' then redis.call('EXPIRE', KEYS[1], ARGV[1]) end
return number
"
}

script! {
    /// Adds or takes away a pattern in a list joined by commas, whatever others do meanwhile. Key: the list. Arguments:
    /// the pattern, whether it is wanted, channel, message. Returns 1 when that changed the list.
    PATTERN = r"
local kept, found = {}, false
for piece in string.gmatch(redis.call('GET', KEYS[1]) or '', '[^,]+') do
  if piece == ARGV[1] then found = true end
  if piece ~= ARGV[1] or ARGV[2] == '1' then kept[#kept + 1] = piece end
end
if found == (ARGV[2] == '1') then return 0 end
if not found then kept[#kept + 1] = ARGV[1] end
redis.call('SET', KEYS[1], table.concat(kept, ','))
redis.pcall('PUBLISH', ARGV[3], ARGV[4])
return 1
"
}

script! {
    /// The same for a set.
    COMMA_PATTERN = r"
local verb = 'SREM'
if ARGV[2] == '1' then verb = 'SADD' end
local changed = redis.call(verb, KEYS[1], ARGV[1])
if changed == 1 then redis.pcall('PUBLISH', ARGV[3], ARGV[4]) end
return changed
"
}
