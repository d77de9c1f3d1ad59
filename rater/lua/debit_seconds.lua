--[[
Purpose: take seconds from the buckets that match the dialled number, and credit for those that
have a price. The order is priority (higher first), precision (longer first), price (lower first),
destination id, place in the account. A negative amount gives seconds back to the first bucket in
that order, and credit at its price.

KEYS: for each request three
  1  STRING  account
  2  STREAM  journal
  3  STRING  token
ARGV: first one for all, then for each request five
  1  about how many journal lines are kept
  2  amount, micros
  3  destination without control characters: with method and amount the request's fingerprint
  4  how long the token lives, ms
  5  deadline on the store's clock, µs; 0 is none
  6  the matching destinations, each packed as length of the id, length of its longest matching prefix
     (4 bytes each) and id, ascending by id: text comparison in Lua follows the server's locale, so
     their order comes from the caller
Returns: a list, for each request one: OK <seconds left in the matching buckets>
Errors: in the place of the request
  Blocked
  InsufficientSeconds <seconds>
  InsufficientCredit <cost> <spendable>
  NoBucket
  OutOfRange <balance>
  KeyReused
  Expired
  UnknownSubject
]]
local OP, WORDS = 'DebitSeconds', 5
--@include _price.lua
--@include _pack.lua
local function before(a, b)
  if a.priority ~= b.priority then return a.priority > b.priority end
  if a.precision ~= b.precision then return a.precision > b.precision end
  if a.price ~= b.price then return a.price < b.price end
  if a.rank ~= b.rank then return a.rank < b.rank end
  return a.place < b.place
end
--@include _begin.lua
--@include _blocked.lua
--@include _buckets.lua
    local rank, precision, from = {}, {}, 1
    while from <= #ARGV[at + 4] do
      local size, length = unpack_at('<I4I4', ARGV[at + 4], from)
      local id = sub(ARGV[at + 4], from + 8, from + 7 + size)
      rank[id], precision[id] = from, length
      from = from + 8 + size
    end
    local matching, total = {}, 0
    for i = 1, count do
      local bucket = buckets[i]
      if rank[bucket.id] then
        matching[#matching + 1] = {
          place = i, seconds = bucket.seconds, priority = bucket.priority, precision = precision[bucket.id],
          price = bucket.price, rank = rank[bucket.id],
        }
        total = total + bucket.seconds
      end
    end
    if #matching > 1 then
      table.sort(matching, before)
    end

    local cost, left_over, used = 0, amount, 0
    if amount > 0 then
      if not refusal and total < amount then
        refusal = 'InsufficientSeconds ' .. format('%.0f', total)
      end
      while left_over > 0 and not refusal do
        used = used + 1
        local bucket = matching[used]
        local taken = math.min(left_over, bucket.seconds)
        bucket.seconds, left_over = bucket.seconds - taken, left_over - taken
        cost = cost + price_of(taken, bucket.price)
      end
    elseif amount < 0 then
      local bucket = matching[1]
      if bucket then
        used = 1
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
    local spendable = math.max(0, credit - min_credit) -- which is 0 where there is no floor
    local credit_left = credit - cost
    if not refusal then
      if left > LIMIT then
        refusal = 'OutOfRange seconds'
      elseif cost > LIMIT or cost < -LIMIT then
        refusal = 'OutOfRange credit'
      elseif cost > spendable and (has_floor == 1 or postpaid % 2 == 0) then
        refusal = 'InsufficientCredit ' .. format('%.0f %.0f', cost, spendable)
      elseif credit_left > LIMIT or credit_left < -LIMIT then
        refusal = 'OutOfRange credit'
      end
    end
--@include _refuse.lua
    credit = credit_left
    for i = 1, used do
      buckets[matching[i].place].seconds = matching[i].seconds
    end
    local packed = pack_buckets(buckets)
    local result, extra, behind = format('%.0f', left), {'buckets', packed, 'cost', format('%.0f', cost)}, ''
--@include _rest.lua
--@include _journal.lua
--@include _commit.lua
--@include _finish.lua
