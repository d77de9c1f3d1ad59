-- Shared by what depends on the tariff plan: the caller brings the figures of the plan that it
-- expects; if the account has another by now, it is told which, and nothing is decided.
    if plan ~= ARGV[at + 4] then
      replies[place] = 'Plan ' .. plan
      break
    end
