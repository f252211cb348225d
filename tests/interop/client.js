'use strict'
// Runs one scenario with the npm client and prints what its callbacks got, as JSON:
//   node client.js NODE_MODULES PORT SCENARIO

const path = require('path')
const [modules, port, scenario] = process.argv.slice(2)
const qrpc = require(path.join(path.resolve(modules), 'qrpc'))

const scenarios = {
    ping: (call) => call('ping'),

    echo: (call) => call('echo', { a: [1, 2.5, null, true], b: { text: 'h\u00e9 "\\ \u2028', big: 9007199254740991 } }),

    blob: async (call) => {
        const sent = Buffer.from(Array.from({ length: 1000 }, (_, i) => i % 256))
        const reply = await call('echo', sent)
        return { isBuffer: Buffer.isBuffer(reply.result), same: sent.equals(reply.result) }
    },

    insert: (call) => call('insert', { type: 'ping', data: { a: 1 } }),

    badInsert: (call) => call('insert', { type: 'ping', dat: 1 }),

    unknown: (call) => call('frobnicate', 1),

    flood: async (call) => {
        const count = 50000
        const replies = await Promise.all(Array.from({ length: count }, (_, i) => call('echo', { i })))
        return { answered: replies.length, right: replies.filter((reply, i) => !reply.isError && reply.result.i === i).length }
    },
}

const client = qrpc.connect(Number(port), '127.0.0.1', () => {
    const call = (name, arg) => new Promise((resolve) => {
        client.call(name, arg, (error, result) => resolve({
            isError: error instanceof Error, error: error && { message: error.message, code: error.code, name: error.name }, result,
        }))
    })
    scenarios[scenario](call).then((found) => {
        process.stdout.write(JSON.stringify(found) + '\n')
        client.close()
    })
})
