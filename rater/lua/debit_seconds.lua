--[[
Purpose: take seconds from the buckets that match the dialled number, and credit for those that
have a price. The order is priority (higher first), precision (longer first), price (lower first),
destination id, place in the account. A negative amount gives seconds back to the first bucket in
that order, and credit at its price.

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
  7… pairs of matching destination id and length of its longest matching prefix, ascending by id:
     text comparison in Lua follows the server's locale, so their order comes from the caller
Returns: OK <seconds left in the matching buckets>
Errors:
  InsufficientSeconds <seconds>
  InsufficientCredit <cost> <spendable>
  NoBucket
  OutOfRange <balance>
  KeyReused
  Expired
  UnknownSubject
]]
--@include _begin.lua
--@include _account.lua
--@include _price.lua
--@include _pack.lua
local op = 'DebitSeconds'
local rank = {}
for i = 7, #ARGV, 2 do
  rank[ARGV[i]] = i
end
local matching, total = {}, 0
for i = 1, #buckets do
  local seconds, terms, priority, price, id = string.match(buckets[i], '^(%d+) ((-?%d+) (%d+) (.*))$')
  local at = rank[id]
  if at then
    matching[#matching + 1] = {
      place = i, seconds = tonumber(seconds), terms = terms, priority = tonumber(priority),
      precision = tonumber(ARGV[at + 1]), price = tonumber(price), rank = at,
    }
    total = total + tonumber(seconds)
  end
end
table.sort(matching, function(a, b)
  if a.priority ~= b.priority then return a.priority > b.priority end
  if a.precision ~= b.precision then return a.precision > b.precision end
  if a.price ~= b.price then return a.price < b.price end
  if a.rank ~= b.rank then return a.rank < b.rank end
  return a.place < b.place
end)

local cost, rest, changed = 0, amount, 0
if amount > 0 then
  if total < amount then
    refusal = 'InsufficientSeconds ' .. string.format('%.0f', total)
  end
  while rest > 0 and not refusal do
    changed = changed + 1
    local bucket = matching[changed]
    local taken = math.min(rest, bucket.seconds)
    bucket.seconds, rest = bucket.seconds - taken, rest - taken
    cost = cost + price_of(taken, bucket.price)
  end
elseif amount < 0 then
  local bucket = matching[1]
  if bucket then
    changed = 1
    bucket.seconds = bucket.seconds - amount
    cost = 0 - price_of(0 - amount, bucket.price)
    if bucket.seconds > LIMIT then
      refusal = 'OutOfRange seconds'
    end
  else
    refusal = 'NoBucket'
  end
end
-- Summed up anew, not total - amount: a total beyond 2^53 may have been rounded, what is left is
-- exact unless it is beyond 2^53 itself.
local left = 0
for i = 1, #matching do
  left = left + matching[i].seconds
end
local floor = fields.min_credit
local spendable = math.max(0, credit - (floor or 0))
local credit_left = credit - cost
if not refusal then
  if left > LIMIT then
    refusal = 'OutOfRange seconds'
  elseif cost > LIMIT or cost < -LIMIT then
    refusal = 'OutOfRange credit'
  elseif cost > spendable and (floor or fields.type ~= 'postpaid') then
    refusal = 'InsufficientCredit ' .. string.format('%.0f %.0f', cost, spendable)
  elseif credit_left > LIMIT or credit_left < -LIMIT then
    refusal = 'OutOfRange credit'
  end
end
--@include _refuse.lua
credit = string.format('%.0f', credit_left)
local result = string.format('%.0f', left)
local changes = {'seq', seq, 'credit', credit}
for i = 1, changed do
  local bucket = matching[i]
  local text = string.format('%.0f ', bucket.seconds) .. bucket.terms
  buckets[bucket.place] = text
  changes[#changes + 1] = 'bucket:' .. (bucket.place - 1)
  changes[#changes + 1] = text
end
local extra = {'buckets', pack_buckets(buckets), 'cost', string.format('%.0f', cost)}
--@include _journal.lua
call('HSET', KEYS[1], unpack(changes))
--@include _finish.lua
