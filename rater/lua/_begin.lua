-- Shared by the mutations, first: the requests one after the other, each with a token and an account.
-- `key` and `at` are where a request's keys and words begin, `replies[place]` is what it is told; `break`
-- goes on to the next one.
--
-- A repeated token is answered as it was the first time, and what is past its deadline is dropped. A
-- token's value is the fingerprint (method, amount, destination or terms), a newline, which none of them holds, and
-- the outcome. A replayed outcome is marked by a leading asterisk. A replay makes the token live anew, and
-- must: who waits for the replicas or the disk waits for the last write of this connection, and the first
-- outcome may have been written on another one.
--
-- An account stays in local variables for as long as requests follow each other that name it, and is written
-- once, behind them (`save`). So that nothing can come between a journal line and its account, the calls that
-- may fail for the state of a key are made by `try`, which gives their error as a value (for that request
-- alone), and whatever else is raised is raised again only after `save`.
local call, try = redis.call, redis.pcall
local account, value, changed -- the key, what it held, and what is to be written from its balances on
local replies = {}
local NONE = {}

local function save()
  if changed and #changed > 48 and 8 + #changed < #value then
    call('SET', account, string.sub(value, 1, 8) .. changed) -- all of it, because it is less
  elseif changed then
    call('SETRANGE', account, 8, changed)
  end
  changed = nil
end

local function each()
  local format, sub, pack, unpack_at = string.format, string.sub, struct.pack, struct.unpack
  local LIMIT = 9007199254740991 -- 2^53 - 1: the largest integer that a balance may reach
  local MAGIC = 'RATELac1' -- of a value that is an account, in this format
  local KEYS, ARGV = KEYS, ARGV
  local seq, credit, sms, traffic, volume_discount, received, min_credit
  local reset_day, postpaid, blocked, has_floor, count, plan_size
  local buckets, plan, now
  for key = 1, #KEYS, 3 do repeat
    local place = (key + 2) / 3
    local at = 2 + (place - 1) * WORDS
    local mark = OP .. ' ' .. ARGV[at] .. ' ' .. ARGV[at + 1] .. '\n'
    local known = try('GET', KEYS[key + 2])
    if known then
      if known.err then
        replies[place] = known
      elseif sub(known, 1, #mark) == mark then
        call('PEXPIRE', KEYS[key + 2], ARGV[at + 2])
        replies[place] = '*' .. sub(known, #mark + 1)
      else
        replies[place] = 'KeyReused'
      end
      break
    end
    if ARGV[at + 3] ~= '0' then
      if not now then
        local clock = call('TIME')
        now = clock[1] * 1e6 + clock[2]
      end
      if now > tonumber(ARGV[at + 3]) then
        replies[place] = 'Expired'
        break
      end
    end
    if KEYS[key] ~= account then
      save()
      account, buckets, plan = nil, nil, nil
      value = try('GET', KEYS[key])
      if not value then
        replies[place] = 'UnknownSubject'
        break
      end
      if value.err then
        replies[place] = value
        break
      end
      local magic
      if #value >= 72 then
        magic, seq, credit, sms, traffic, volume_discount, received, min_credit, reset_day, postpaid,
          has_floor, count, plan_size = unpack_at('<c8i8i8i8i8i8i8i8BBBBI4', value)
      end
      if magic ~= MAGIC or 72 + plan_size > #value then
        replies[place] = {err = 'ERR the account holds something else'}
        break
      end
      account, blocked = KEYS[key], postpaid > 1
    end
    local amount = tonumber(ARGV[at])
    local refusal
