--[[
Purpose: set volume discount counters to zero.

KEYS: for each request three
  1  STRING  account
  2  STREAM  journal
  3  STRING  token
ARGV: first one for all, then for each request four
  1  about how many journal lines are kept
  2  amount, always 0
  3  destination without control characters: with method and amount the request's fingerprint
  4  how long the token lives, ms
  5  deadline on the store's clock, µs; 0 is none
Returns: a list, for each request one: OK 0
Errors: in the place of the request
  KeyReused
  Expired
  UnknownSubject
]]
local OP, WORDS = 'ResetVolumeDiscountSeconds', 4
--@include _begin.lua
--@include _refuse.lua
    volume_discount = 0
    local result, extra, behind = '0', NONE, ''
--@include _journal.lua
--@include _commit.lua
--@include _finish.lua
