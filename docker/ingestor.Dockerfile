# iceberg-ingestor: Vault, S3 and Trino, and no other driver. Build from the root of the repository:
#   docker build -f docker/ingestor.Dockerfile -t iceberg-ingestor .
# Plain Dockerfile syntax without a frontend to fetch, so that any builder takes it.
ARG NODE_IMAGE=node:24-bookworm-slim

FROM ${NODE_IMAGE} AS build
ENV CI=true
RUN npm install --global pnpm@12.21.0
WORKDIR /src
# The lockfile alone decides what is fetched: a change of source does not fetch again.
COPY pnpm-lock.yaml pnpm-workspace.yaml ./
RUN pnpm fetch
COPY . .
RUN pnpm install --frozen-lockfile --offline
# Last, so that the images share all layers above.
ARG APP=ingestor
RUN pnpm exec tsc -b "apps/${APP}" \
  && pnpm --filter "./apps/${APP}" deploy --prod --offline /app \
  && pnpm --filter "./apps/${APP}" sbom --prod --sbom-format cyclonedx --sbom-type application --out /app/sbom.cdx.json \
  && node docker/image-contents.ts /app

FROM ${NODE_IMAGE}
LABEL org.opencontainers.image.title="iceberg-ingestor" \
      org.opencontainers.image.description="Loads extracted runs into Iceberg tables through Trino, each exactly once" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.licenses="Apache-2.0" \
      handlers="s3-handler trino-handler vault-handler"
ENV NODE_ENV=production
WORKDIR /app
COPY --from=build /app ./
# A number, so that Kubernetes can see that it is not root; any other number works too.
USER 1000
HEALTHCHECK --interval=30s --timeout=5s --start-period=5s CMD ["node", "dist/main.js", "health"]
ENTRYPOINT ["node", "dist/main.js"]
CMD ["--help"]
