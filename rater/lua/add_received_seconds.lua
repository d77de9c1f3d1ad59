--[[
Purpose: count received seconds. Each time the counter reaches the plan's threshold, the threshold
is taken off and the plan's bonus is given. A bonus bucket is added to the bucket with the same
terms (priority, price and destination), or becomes a new one.

KEYS: for each request three
  1  STRING  account
  2  STREAM  journal
  3  STRING  token
ARGV: first one for all, then for each request twelve
  1  about how many journal lines are kept
  2  amount, micros
  3  destination without control characters: with method and amount the request's fingerprint
  4  how long the token lives, ms
  5  deadline on the store's clock, µs; 0 is none
  6  id of the plan that the following figures are from
  7  threshold, micros; 0 is none
  8  bonus: credit, micros
  9  bonus: SMS, micros
  10 bonus: traffic, micros
  11 bonus: seconds of the bucket, micros; 0 is none
  12 bonus: terms of the bucket, as stored: what is behind its seconds
  13 how many buckets an account may have
Returns: a list, for each request one: OK <counter>, or Plan <id> when the account has another plan:
nothing was decided
Errors: in the place of the request
  TooManyBuckets
  OutOfRange <balance>
  KeyReused
  Expired
  UnknownSubject
]]
local OP, WORDS = 'AddRecievedCallSeconds', 12
--@include _pack.lua
--@include _begin.lua
--@include _buckets.lua
--@include _plan.lua
    local threshold = tonumber(ARGV[at + 5])
    local total, times = received + amount, 0
    if total > LIMIT or total < -LIMIT then
      refusal = 'OutOfRange received'
    elseif threshold > 0 and total >= threshold then
      local left = math.fmod(total, threshold) -- exact, where floor(total / threshold) may round
      times, total = (total - left) / threshold, left
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
    local credit_after = raised('credit', credit, ARGV[at + 6])
    local sms_after = raised('sms', sms, ARGV[at + 7])
    local traffic_after = raised('traffic', traffic, ARGV[at + 8])
    local bucket, seconds = 0, 0
    if times > 0 and ARGV[at + 9] ~= '0' then
      bucket = count + 1
      for i = count, 1, -1 do
        if buckets[i].terms == ARGV[at + 10] then
          bucket, seconds = i, buckets[i].seconds
        end
      end
      seconds = raised('seconds', seconds, ARGV[at + 9])
      if bucket > tonumber(ARGV[at + 11]) then
        refusal = refusal or 'TooManyBuckets'
      end
    end
--@include _refuse.lua
    received = total
    local result, extra, behind = format('%.0f', total), {}, ''
    if times > 0 then
      credit, sms, traffic = credit_after, sms_after, traffic_after
      extra = {'bonus', format('%.0f %.0f %.0f %.0f %.0f', times, times * ARGV[at + 5], times * ARGV[at + 6],
        times * ARGV[at + 7], times * ARGV[at + 8])}
    end
    if bucket > 0 then
      buckets[bucket] = {seconds = seconds, terms = ARGV[at + 10]}
      count = math.max(count, bucket)
      local packed = pack_buckets(buckets)
      extra[3], extra[4] = 'buckets', packed
--@include _rest.lua
    end
--@include _journal.lua
--@include _commit.lua
    if bucket > 0 then
      save()
      account = nil -- its buckets are others now
    end
--@include _finish.lua
