// Serves the application of ../tiny.py with one Node session package: node server.mjs NAME PORT [REDIS_URL]
import { randomBytes } from "node:crypto";
import { createServer } from "node:http";
import { createRequire } from "node:module";
import { enter, steer } from "./gates.mjs";
import { CLIENT, startProvider } from "./provider.mjs";

const require = createRequire(import.meta.url); // the CommonJS packages
const [name, portText, redisUrl] = process.argv.slice(2);
const port = Number(portText);
const base = `http://localhost:${port}`;
const secret = "s".repeat(64);
const AGE = 3600; // seconds

const say = (res, value) => res.setHeader("content-type", "application/json").end(JSON.stringify(value));

/** The part of every request that is the application's: read, wait at the gate, write. */
async function act(url, session, elevate) {
  const gate = url.searchParams.get("gate");
  const elevates = url.pathname === "/elevate" && session;
  if (elevates && gate === "after") await elevate();
  if (gate) await enter("handler");
  if (elevates && gate !== "after") await elevate();
  if (url.pathname === "/write" && session) session[url.searchParams.get("k")] = url.searchParams.get("v");
}

/** What a login is to store besides the user; about half of it becomes part of an ID token, which is base64. */
const padding = (url) => Number(url.searchParams.get("size") ?? 0);

async function redis() {
  const client = require("redis").createClient({ url: redisUrl });
  await client.connect();
  return client;
}

/** A connect-style store on Redis, whose writes pass the store gate. */
async function gatedConnectRedis() {
  const { RedisStore } = await import("connect-redis");
  class GatedStore extends RedisStore {
    async set(...args) {
      await enter("store");
      return super.set(...args);
    }
  }
  return new GatedStore({ client: await redis(), ttl: AGE });
}

/**
 * An Express application; `visit` says how the package reads, renews and ends a session. `elevate` and `leave` are what
 * its documentation shows for a change of privileges and for a logout: by default, the role is stored, and `logout`.
 */
async function expressApp(layers, visit) {
  const app = require("express")();
  app.use((req, res, next) => steer(req, res) || next());
  for (const layer of layers) app.use(layer);
  app.use(async (req, res) => {
    const url = new URL(req.originalUrl, base);
    if (url.pathname === "/login") return visit.login(req, res, url.searchParams.get("user"), padding(url));
    if (url.pathname === "/logout") return visit.logout(req, res);
    if (url.pathname === "/leave") return visit.leave ? visit.leave(req, res) : res.redirect("/logout");
    const session = visit.session(req);
    const user = visit.user(req) ?? null;
    await act(url, session, visit.elevate?.bind(visit, req) ?? (() => (session.role = "admin")));
    if (visit.roll) await visit.roll(req, res);
    say(res, { user, cart: session?.cart });
  });
  return app;
}

const contenders = {
  async "express-session"() {
    const session = require("express-session");
    const layer = session({
      secret,
      store: await gatedConnectRedis(),
      rolling: true,
      resave: false,
      saveUninitialized: false,
      cookie: { maxAge: AGE * 1000 },
    });
    return expressApp([layer], {
      session: (req) => req.session,
      user: (req) => req.session.user,
      login: (req, res, user, size) =>
        req.session.regenerate(() => {
          Object.assign(req.session, { user, pad: "x".repeat(size) });
          say(res, { user });
        }),
      logout: (req, res) => req.session.destroy(() => say(res, {})),
      // Its README, Session.regenerate(): a new id and a new, empty session.
      elevate: (req) => {
        const { user, cart } = req.session;
        return new Promise((done) =>
          req.session.regenerate(() => done(Object.assign(req.session, { user, cart, role: "admin" }))),
        );
      },
      // Its README, "User login".
      leave: (req, res) => {
        req.session.user = null;
        req.session.save(() => req.session.regenerate(() => res.redirect("/")));
      },
    });
  },

  async "cookie-session"() {
    const layer = require("cookie-session")({ keys: [secret], maxAge: AGE * 1000 });
    return expressApp([layer], {
      session: (req) => req.session,
      user: (req) => req.session.user,
      login: (req, res, user, size) => {
        req.session = { user, pad: "x".repeat(size) };
        say(res, { user });
      },
      logout: (req, res) => {
        req.session = null; // its README, "Destroying a session"
        say(res, {});
      },
      // Its documentation: to extend the session, change a value in it.
      roll: (req) => {
        if (!req.session.isNew) req.session.seen = Date.now();
      },
    });
  },

  async "iron-session"() {
    const { getIronSession } = await import("iron-session");
    const options = { password: secret, cookieName: "session", ttl: AGE, cookieOptions: { secure: false } };
    const layer = async (req, res, next) => {
      req.iron = await getIronSession(req, res, options);
      next();
    };
    return expressApp([layer], {
      session: (req) => req.iron,
      user: (req) => req.iron.user,
      login: async (req, res, user, size) => {
        Object.assign(req.iron, { user, pad: "x".repeat(size) });
        await req.iron.save();
        say(res, { user });
      },
      logout: (req, res) => {
        req.iron.destroy(); // its README, session.destroy()
        say(res, {});
      },
      roll: (req) => (req.iron.user ? req.iron.save() : undefined),
    });
  },

  "express-openid-connect": () => expressOpenid(undefined),
  "express-openid-connect-redis": async () => expressOpenid(await gatedConnectRedis()),

  nextjs: () => nextjs(undefined),
  "nextjs-store": () => nextjs(gatedMap(false)),
  "nextjs-store-update": () => nextjs(gatedMap(true)),
};

async function expressOpenid(store) {
  const { auth } = require("express-openid-connect");
  const provider = await startProvider();
  const layer = auth({
    issuerBaseURL: provider.issuer,
    baseURL: base,
    clientID: CLIENT,
    clientSecret: secret,
    secret,
    authRequired: false,
    idpLogout: false,
    authorizationParams: { response_type: "code", scope: "openid" },
    routes: { login: false, logout: "/logout", callback: "/callback" },
    session: { store },
  });
  return expressApp([layer], {
    session: (req) => (req.oidc.isAuthenticated() ? req.appSession : undefined),
    user: (req) => req.oidc.user?.sub,
    login: (req, res, user, size) =>
      res.oidc.login({ returnTo: "/", authorizationParams: { login_hint: user, pad: String(size >> 1) } }),
    // Its README: the /logout route, and for the session `req.appSession`, into which the role is stored.
  });
}

/** A session store for nextjs-auth0, as its documentation outlines one, with or without the optional `update`. */
function gatedMap(withUpdate) {
  const records = new Map();
  const store = {
    get: async (id) => structuredClone(records.get(id) ?? null),
    set: async (id, value) => {
      await enter("store");
      records.set(id, structuredClone(value));
    },
    delete: async (id) => void records.delete(id),
    deleteByLogoutToken: async () => {},
  };
  if (withUpdate)
    store.update = async (id, value) => {
      await enter("store");
      if (!records.has(id)) return false;
      records.set(id, structuredClone(value));
      return true;
    };
  return store;
}

/** nextjs-auth0 by its server-side API: its middleware first, then a route handler, as Next.js runs them. */
async function nextjs(sessionStore) {
  const { Auth0Client } = await import("@auth0/nextjs-auth0/server");
  const { NextRequest, NextResponse } = await import("next/server.js");
  const domain = "tenant.example.com"; // the client insists on https and a name; fetches are led to the local provider
  const provider = await startProvider(`https://${domain}/`);
  const local = (text) => text.replace(`https://${domain}/`, provider.base);
  const auth0 = new Auth0Client({
    domain,
    clientId: CLIENT,
    clientSecret: secret,
    secret: randomBytes(32).toString("hex"),
    appBaseUrl: base,
    sessionStore,
    routes: { login: "/login", logout: "/logout", callback: "/callback" },
    customFetch: (url, options) => fetch(local(String(url)), options),
    logoutStrategy: "oidc",
  });

  return async (req, res) => {
    if (steer(req, res)) return;
    const url = new URL(req.url, base);
    if (url.pathname === "/login") {
      url.searchParams.set("login_hint", url.searchParams.get("user"));
      url.searchParams.set("pad", padding(url) >> 1);
    }
    if (url.pathname === "/leave") url.pathname = "/logout"; // its README: a link to the logout route
    const answer = await auth0.middleware(new NextRequest(url, { headers: { cookie: req.headers.cookie ?? "" } }));
    const setCookies = answer.headers.getSetCookie();
    if (!answer.headers.has("x-middleware-next")) {
      const location = answer.headers.get("location");
      res.writeHead(answer.status, { "set-cookie": setCookies, ...(location && { location: local(location) }) });
      return res.end(await answer.text());
    }
    // What the middleware set is what the handler sees: Next.js forwards it so.
    const cookie = answer.headers.get("x-middleware-request-cookie") ?? req.headers.cookie ?? "";
    const request = new NextRequest(url, { headers: { cookie } });
    const session = await auth0.getSession(request);
    const user = session?.user.sub ?? null;
    const cart = session?.cart;
    const save = async () => {
      const response = new NextResponse();
      // A session that ended meanwhile is an error to updateSession; the response is sent all the same.
      await auth0.updateSession(request, response, session).catch(() => (res.statusCode = 401));
      setCookies.push(...response.headers.getSetCookie());
    };
    await act(url, session, () => ((session.role = "admin"), save()));
    if (url.pathname === "/write" && session) await save();
    res.setHeader("set-cookie", setCookies);
    say(res, { user, cart });
  };
}

const app = await contenders[name]();
const server = createServer((req, res) => Promise.resolve(app(req, res)).catch((error) => {
  console.error(error);
  res.headersSent || res.writeHead(500);
  res.end();
}));
server.listen(port, "127.0.0.1", () => console.log(`${name} on ${port}`));
