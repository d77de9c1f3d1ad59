--[[
Purpose: count received seconds. Each time the counter reaches the plan's threshold, the threshold
is taken off and the plan's bonus is given. A bonus bucket is added to the bucket with the same
terms (priority, price and destination), or becomes a new one.

KEYS:
  1  HASH    account
  2  STREAM  journal
  3  STRING  token
ARGV:
  1  fingerprint of the request
  2  how long the token lives, ms
  3  deadline on the store's clock, µs; 0 is none
  4  about how many journal lines are kept
  5  token, for the journal
  6  amount, micros
  7  id of the plan that the following figures are from
  8  threshold, micros; 0 is none
  9  bonus: credit, micros
  10 bonus: SMS, micros
  11 bonus: traffic, micros
  12 bonus: seconds of the bucket, micros; 0 is none
  13 bonus: terms of the bucket, as stored: "<priority> <price> <destination>"
  14 how many buckets an account may have
Returns: OK <counter>, or Plan <id> when the account has another plan: nothing was decided
Errors:
  TooManyBuckets
  OutOfRange <balance>
  KeyReused
  Expired
  UnknownSubject
]]
--@include _begin.lua
--@include _account.lua
--@include _plan.lua
--@include _pack.lua
local op, extra = 'AddRecievedCallSeconds', {}
local threshold = tonumber(ARGV[8])
local total, times = received + amount, 0
if total > LIMIT or total < -LIMIT then
  refusal = 'OutOfRange received'
elseif threshold > 0 and total >= threshold then
  local rest = math.fmod(total, threshold) -- exact, where floor(total / threshold) may round
  times, total = (total - rest) / threshold, rest
end

-- `balance` after the bonus. The bonus must fit by itself: beyond 2^53 it is not exact.
local function raised(name, balance, bonus)
  local gain = times * bonus
  local after = balance + gain
  if gain > LIMIT or gain < -LIMIT or after > LIMIT or after < -LIMIT then
    refusal = refusal or 'OutOfRange ' .. name
  end
  return after
end
local credit_after = raised('credit', credit, ARGV[9])
local sms_after = raised('sms', sms, ARGV[10])
local traffic_after = raised('traffic', traffic, ARGV[11])
local place, seconds = 0, 0
if times > 0 and ARGV[12] ~= '0' then
  place = #buckets + 1
  for i = #buckets, 1, -1 do
    local held, terms = string.match(buckets[i], '^(%d+) (.*)$')
    if terms == ARGV[13] then
      place, seconds = i, tonumber(held)
    end
  end
  seconds = raised('seconds', seconds, ARGV[12])
  if place > tonumber(ARGV[14]) then
    refusal = refusal or 'TooManyBuckets'
  end
end
--@include _refuse.lua
received = string.format('%.0f', total)
local result = received
if times > 0 then
  credit = string.format('%.0f', credit_after)
  sms = string.format('%.0f', sms_after)
  traffic = string.format('%.0f', traffic_after)
  extra = {'bonus', string.format('%.0f %.0f %.0f %.0f %.0f', times, times * ARGV[8], times * ARGV[9],
    times * ARGV[10], times * ARGV[11])}
end
local changes = {'seq', seq, 'received', received, 'credit', credit, 'sms', sms, 'traffic', traffic}
if place > 0 then
  buckets[place] = string.format('%.0f ', seconds) .. ARGV[13]
  changes[11], changes[12] = 'bucket:' .. (place - 1), buckets[place]
  extra[3], extra[4] = 'buckets', pack_buckets(buckets)
end
--@include _journal.lua
call('HSET', KEYS[1], unpack(changes))
--@include _finish.lua
