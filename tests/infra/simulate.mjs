// Answers the simulations on stdin (a JSON list) with a JSON list of results. Argument: the folder whose node_modules has iam-simulate.
import { readFileSync } from 'node:fs'
import { createRequire } from 'node:module'

const { runSimulation } = createRequire(process.argv[2] + '/')('@cloud-copilot/iam-simulate')
const results = []
for (const asked of JSON.parse(readFileSync(0, 'utf8'))) {
  const answer = await runSimulation(asked, {})
  if (answer.resultType === 'error') {
    console.error(JSON.stringify(asked.request), JSON.stringify(answer.errors, null, 1))
    process.exit(1)
  }
  results.push(answer.overallResult)
}
console.log(JSON.stringify(results))
