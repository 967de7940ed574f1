// The gates of ../tiny.py: each lets everybody pass until it is armed, then holds the first to come.
const armed = new Map();
const held = new Map();

export async function enter(name) {
  const gate = armed.get(name);
  if (!gate) return;
  armed.delete(name);
  gate.entered = true;
  await gate.released;
}

/** Answer the harness's own requests. False if this is not one. */
export function steer(req, res) {
  const url = new URL(req.url, "http://localhost");
  if (!url.pathname.startsWith("/_gates/")) return false;
  const name = url.searchParams.get("name");
  const action = url.pathname.slice("/_gates/".length);
  if (action === "arm") {
    const gate = { entered: false };
    gate.released = new Promise((open) => (gate.open = open));
    armed.set(name, gate);
    held.set(name, gate);
  } else if (action === "release") {
    armed.delete(name);
    held.get(name).open();
  }
  res.end(JSON.stringify(Boolean(held.get(name)?.entered)));
  return true;
}
