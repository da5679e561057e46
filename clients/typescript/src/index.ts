/** Client of the p4r service: openapi-fetch with the types of the service's OpenAPI document. */

import createClient, { type Client } from "openapi-fetch";

import type { components, paths } from "./schema.js";

export type { components, paths };

/** Requests and answers by the name of their model, for example `Schemas["RerankBody"]`. */
export type Schemas = components["schemas"];

export type P4RClient = Client<paths>;

export interface Options {
  /** The key of a reader or of the administrator; without it for a service that needs none. */
  key?: string;
  /** Milliseconds until a request is given up: its promise is then rejected by a TimeoutError. */
  timeoutMs?: number;
}

/**
 * Make a client, with a method for each HTTP method: `client.POST("/v1/rerank", { body })`.
 *
 * A method resolves to `data`, or to `error` if the service refuses the request; it is rejected
 * if no answer arrives.
 */
export function createP4RClient(url: string, { key, timeoutMs = 10_000 }: Options = {}): P4RClient {
  return createClient<paths>({
    baseUrl: url,
    headers: key === undefined ? {} : { Authorization: `Bearer ${key}` },
    fetch: (request) => {
      const limit = AbortSignal.timeout(timeoutMs);
      return fetch(request, { signal: AbortSignal.any([request.signal, limit]) });
    },
  });
}
