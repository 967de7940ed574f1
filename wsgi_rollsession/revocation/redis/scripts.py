"""What happens inside Redis when a fence is raised: one Lua script each, which writes fence and log entry together.

KEYS: the everything-fence, the lifetime, the log, and then the script's own (``shard.Names``): what it raises.
"""

from __future__ import annotations

from hashlib import sha1

from ..clock import CLOCK_STEP_MS, RUN_AHEAD_S
from ..fence import CLOCK_SKEW_MS, ENDED

# ARGV: the lifetime; 1 to accept amnesia; the least number of a genesis; the caller's clock, because sessions are
# created by that of a process, and the server's may be behind it; and then the script's own.
_PREAMBLE = f"""
local everything, lifetime, log = KEYS[1], KEYS[2], KEYS[3]
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local life = tonumber(redis.call('GET', lifetime) or 0)
if tonumber(ARGV[1]) > life then
  life = tonumber(ARGV[1])
  redis.call('SET', lifetime, ARGV[1])
end
local keep = life + {CLOCK_STEP_MS}
local function whole(number) return string.format('%.0f', number) end
local function revoked_before() return math.ceil((math.max(now, tonumber(ARGV[4])) + {CLOCK_SKEW_MS}) / 1000) end
local function raise(key, number)
  number = math.max(number, tonumber(redis.call('GET', key) or 0))
  if key == everything then
    redis.call('SET', key, whole(number))
  else
    local stay = math.max(keep, redis.call('PTTL', key))
    -- Until the clock has passed it, as ``clock.expiry``.
    if number < {ENDED} then stay = math.max(stay, number * 1000 - now + {CLOCK_STEP_MS}) end
    redis.call('SET', key, whole(number), 'PX', whole(stay))
  end
  redis.call('XADD', log, 'MINID', '~', whole(now - keep), '*', 'f', key:sub(-16) .. struct.pack('>I4', number))
  redis.call('PEXPIRE', log, whole(keep))
end
-- Larger than any number that a session can have passed: those that are lost had run ahead of the clock (FENCE_NOW).
-- And odd.
local function genesis(known)
  local number = math.max(revoked_before() + {RUN_AHEAD_S + 1}, known)
  return math.min(number + 1 - number % 2, {ENDED})
end
local begun = false
if redis.call('EXISTS', everything) == 0 then
  raise(everything, ARGV[2] == '1' and 0 or genesis(tonumber(ARGV[3])))
  begun = redis.call('GET', everything)
end
"""


class Script:
    """A script's text and its name for EVALSHA.

    Each returns the server's time in milliseconds, one value, and the genesis, if it found none and wrote it.
    """

    def __init__(self, body: str) -> None:
        self.text = (_PREAMBLE + body).encode()
        self.sha = sha1(self.text, usedforsecurity=False).hexdigest().encode()


HELLO = Script("return {now, redis.call('GET', everything), begun}")
# Another server process has the data. If it may have lost some, the everything-fence goes up: once, for whoever comes
# second finds another record. Returns the record that is there now, too.
ADOPT = Script("""
local server = lifetime:sub(1, -9) .. 'server'
if (redis.call('GET', server) or '') == ARGV[5] then
  redis.call('SET', server, ARGV[6])
  if ARGV[7] == '1' and not begun then
    raise(everything, genesis(math.max(redis.call('GET', everything) + 1, tonumber(ARGV[3]))))
  end
end
return {now, redis.call('GET', everything), begun, redis.call('GET', server)}
""")
FENCE = Script("""
for i = 4, #KEYS do raise(KEYS[i], tonumber(ARGV[5])) end
return {now, ARGV[5], begun}
""")
# As ``clock.next_revoked_before``; 0 stands for None. ARGV[5]: what another shard has got.
FENCE_NOW = Script(f"""
local clock = revoked_before()
local number, even = math.max(clock, tonumber(ARGV[5])), 0
for i = 4, #KEYS do
  number = math.max(number, tonumber(redis.call('GET', KEYS[i]) or 0) + 1)
  if KEYS[i] == everything then even = 1 end
end
number = number + number % 2 * even
local ahead = number - clock
if ahead > {RUN_AHEAD_S} and ahead <= {2 * RUN_AHEAD_S} then return {{now, '0', begun}} end
number = math.min(number, {ENDED})
for i = 4, #KEYS do raise(KEYS[i], number) end
return {{now, whole(number), begun}}
""")
# ARGV[5]: how many of the keys, and of the numbers that follow, are limits; the rest is raised.
COMPARE_AND_RAISE = Script("""
local last = 3 + tonumber(ARGV[5])
for i = 4, last do
  if tonumber(redis.call('GET', KEYS[i]) or 0) > tonumber(ARGV[2 + i]) then return {now, '0', begun} end
end
for i = last + 1, #KEYS do raise(KEYS[i], tonumber(ARGV[2 + i])) end
return {now, '1', begun}
""")
