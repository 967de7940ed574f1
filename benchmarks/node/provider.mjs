// A local OpenID provider: whoever asks is logged in at once, as the user of `login_hint`. Its tokens have `pad` bytes
// more if that is asked for.
import { createServer } from "node:http";
import { exportJWK, generateKeyPair, SignJWT } from "jose";

const CLIENT = "contender";

/** Start the provider on a free loopback port. `issuer` is what its tokens claim; by default its own address. */
export async function startProvider(issuer) {
  const { publicKey, privateKey } = await generateKeyPair("RS256");
  const jwk = { ...(await exportJWK(publicKey)), kid: "1", alg: "RS256", use: "sig" };
  const json = (res, value) => res.setHeader("content-type", "application/json").end(JSON.stringify(value));

  const server = createServer(async (req, res) => {
    const url = new URL(req.url, base);
    const query = url.searchParams;
    if (url.pathname === "/.well-known/openid-configuration") {
      json(res, {
        issuer,
        authorization_endpoint: at("authorize"),
        token_endpoint: at("token"),
        jwks_uri: at("jwks"),
        end_session_endpoint: at("logout"),
        response_types_supported: ["code"],
        subject_types_supported: ["public"],
        id_token_signing_alg_values_supported: ["RS256"],
        code_challenge_methods_supported: ["S256"],
      });
    } else if (url.pathname === "/jwks") {
      json(res, { keys: [jwk] });
    } else if (url.pathname === "/authorize") {
      const grant = { sub: query.get("login_hint"), nonce: query.get("nonce") ?? undefined, pad: query.get("pad") };
      const back = new URL(query.get("redirect_uri"));
      back.searchParams.set("code", Buffer.from(JSON.stringify(grant)).toString("base64url"));
      back.searchParams.set("state", query.get("state"));
      res.writeHead(302, { location: back.href }).end();
    } else if (url.pathname === "/token") {
      let body = "";
      for await (const piece of req) body += piece;
      const grant = JSON.parse(Buffer.from(new URLSearchParams(body).get("code"), "base64url"));
      const pad = "x".repeat(Number(grant.pad)); // as the names of many groups would make it
      const idToken = await new SignJWT({ ...grant, pad, sid: `sid-${grant.sub}` })
        .setProtectedHeader({ alg: "RS256", kid: "1" })
        .setIssuer(issuer)
        .setAudience(CLIENT)
        .setIssuedAt()
        .setExpirationTime("1h")
        .sign(privateKey);
      json(res, { access_token: "access", token_type: "Bearer", expires_in: 3600, id_token: idToken });
    } else if (url.pathname === "/logout") {
      res.writeHead(302, { location: query.get("post_logout_redirect_uri") }).end();
    } else {
      res.writeHead(404).end();
    }
  });
  await new Promise((ready) => server.listen(0, "127.0.0.1", ready));
  const base = `http://127.0.0.1:${server.address().port}/`;
  issuer ??= base.slice(0, -1);
  const at = (path) => new URL(path, issuer.endsWith("/") ? issuer : `${issuer}/`).href;
  return { base, issuer };
}

export { CLIENT };
