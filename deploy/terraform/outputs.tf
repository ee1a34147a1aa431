output "address" {
  description = "Point the domain's A record here; the certificate is made once it does."
  value       = google_compute_global_address.public.address
}

output "api_instance_ip" {
  description = "What the workers know as API_INSTANCE_IP."
  value       = google_compute_address.internal.address
}

output "redis_instance_ip" {
  description = "What web, worker and sweeper know as REDIS_INSTANCE_IP."
  value       = google_redis_instance.main.host
}

output "files_bucket" {
  description = "Where the files are."
  value       = google_storage_bucket.files.name
}

output "releases_bucket" {
  description = "Where archives of releases go."
  value       = google_storage_bucket.releases.name
}
