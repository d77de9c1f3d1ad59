-- Shared by what depends on the tariff plan: the caller brings the figures of the plan that it
-- expects; if the account has another by now, it is told which, and nothing is decided.
if fields.plan ~= ARGV[7] then
  return 'Plan ' .. fields.plan
end
